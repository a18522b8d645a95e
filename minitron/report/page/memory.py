"""Memory against the budget: what weights, caches and states take at each context, teacher and student."""

from collections.abc import Mapping
from dataclasses import asdict

from minitron.artifacts.json_files import JsonValue
from minitron.estimate.serving.memory import MemoryBytes, memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.models.shape import HybridShape
from minitron.report.page.charts import byte_unit, chart, height_of_rows, tooltip
from minitron.report.page.parts import Figure, Note, Section, Table
from minitron.report.run_figure import PART_COLORS
from minitron.report.tables import PART_LABELS
from minitron.units import format_bytes

# Beside the budget's own context.
CONTEXTS = tuple(2**power for power in range(13, 20))


def memory_by_context(shape: HybridShape, workload: Workload) -> dict[int, MemoryBytes]:
    """Context in tokens -> bytes of a shape, ascending."""
    contexts = sorted({workload.context_tokens, *CONTEXTS})
    return {context: memory_bytes(shape, workload.changed(context_tokens=context)) for context in contexts}


def memory_section(shapes: Mapping[str, HybridShape], workload: Workload, budget_bytes: int) -> Section:
    """Bytes of each model by what they hold, at the budget's context and at others.

    Args:
        shapes: Model -> shape, the teacher first.
        workload: What is served.
        budget_bytes: Bytes allowed.
    """
    found = {model: memory_by_context(shape, workload) for model, shape in shapes.items()}
    counted = "cache blocks as vLLM allocates them" if workload.accounting == "vllm" else "what is stored"
    about = (
        f"{workload.sequences:,} sequence{'s' if workload.sequences > 1 else ''} at once; weights in "
        f"{workload.weights_dtype}, keys and values in {workload.kv_dtype}, recurrent states in {workload.ssm_dtype}, "
        f"convolution states in {workload.conv_dtype}; {counted} is counted. The budget is for "
        f"{workload.context_tokens:,} tokens: {format_bytes(budget_bytes)}."
    )
    at_budget = {model: {workload.context_tokens: each[workload.context_tokens]} for model, each in found.items()}
    figures = (
        _figure("memory", f"Memory at the budget's {workload.context_tokens:,} tokens", at_budget, budget_bytes),
        _figure("memory-by-context", "Memory by context", found, budget_bytes),
    )
    return Section(name="memory", title="Memory against the budget", parts=(Note(text=about), *figures))


def _parts(memory: MemoryBytes) -> dict[str, int]:
    held = asdict(memory)
    return {part: held[f"{part}_bytes"] for part in PART_LABELS}


def _figure(name: str, caption: str, found: Mapping[str, Mapping[int, MemoryBytes]], budget_bytes: int) -> Figure:
    return Figure(
        name=name,
        caption=f"{caption}: {' and '.join(found)} one below the other; the dashed line is the budget",
        spec=_spec(found, budget_bytes),
        table=_table(found, budget_bytes),
    )


def _spec(found: Mapping[str, Mapping[int, MemoryBytes]], budget_bytes: int) -> Mapping[str, JsonValue]:
    largest = max(memory.total_bytes for by_context in found.values() for memory in by_context.values())
    unit, name = byte_unit(largest)
    used = [part for part in PART_LABELS if any(_parts(one)[part] for each in found.values() for one in each.values())]
    values: list[dict[str, JsonValue]] = [
        {
            "context": f"{context:,}",
            "model": model,
            "part": PART_LABELS[part],
            "order": used.index(part),
            "size": _parts(memory)[part] / unit,
            "total": memory.total_bytes / unit,
        }
        for model, by_context in found.items()
        for context, memory in by_context.items()
        for part in used
    ]
    contexts: list[JsonValue] = list(dict.fromkeys(str(row["context"]) for row in values))
    models: list[JsonValue] = [*found]
    colors: dict[str, JsonValue] = {
        "domain": [PART_LABELS[part] for part in used],
        "range": [PART_COLORS[part] for part in used],
    }
    opacities: dict[str, JsonValue] = {"domain": models, "range": [0.45, 1.0] if len(models) > 1 else [1.0]}
    bars: dict[str, JsonValue] = {
        "mark": "bar",
        "encoding": {
            "y": {"field": "context", "type": "nominal", "sort": contexts, "title": "context, tokens"},
            "yOffset": {"field": "model", "sort": models},
            "x": {"field": "size", "type": "quantitative", "title": name},
            "color": {"field": "part", "type": "nominal", "scale": colors, "title": None},
            "opacity": {"field": "model", "type": "ordinal", "sort": models, "scale": opacities, "title": None},
            "order": {"field": "order", "type": "quantitative"},
            "tooltip": tooltip(
                ("model", "model", ""),
                ("context", "context, tokens", ""),
                ("part", "part", ""),
                ("size", name, ",.3f"),
                ("total", f"total, {name}", ",.3f"),
            ),
        },
    }
    rule: dict[str, JsonValue] = {
        "data": {"values": [{"budget": budget_bytes / unit}]},
        "mark": {"type": "rule", "color": "var(--budget)", "strokeDash": [6, 4], "strokeWidth": 2},
        "encoding": {
            "x": {"field": "budget", "type": "quantitative"},
            "tooltip": tooltip(("budget", f"budget, {name}", ",.3f")),
        },
    }
    return chart([bars, rule], values=values, height=height_of_rows(len(contexts) * len(models)))


def _table(found: Mapping[str, Mapping[int, MemoryBytes]], budget_bytes: int) -> Table:
    columns = ("context, tokens", "model", *PART_LABELS.values(), "total", "of the budget")
    rows = [
        (
            f"{context:,}",
            model,
            *(format_bytes(held) for held in _parts(found[model][context]).values()),
            format_bytes(found[model][context].total_bytes),
            f"{found[model][context].total_bytes / budget_bytes:.1%}",
        )
        for context in next(iter(found.values()))
        for model in found
    ]
    return Table(columns=columns, rows=tuple(rows))
