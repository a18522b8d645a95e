"""Tables for a terminal: metrics of models, candidates of a search, fit, quantization, scores."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.table import Table

from minitron.estimate.serving.model_fit import ModelFit
from minitron.evaluate.metrics import Metrics
from minitron.evaluate.speed.wave import Speed
from minitron.importance.summary import BlockSummary
from minitron.search.record import CandidateRecord, SearchRecord
from minitron.units import format_bytes

PART_LABELS = {
    "weights": "weights",
    "kv": "KV cache",
    "ssm": "recurrent state",
    "conv": "conv state",
    "workspace": "workspace",
}


def format_count(count: int) -> str:
    """A number in thousands, millions or billions.

    >>> format_count(8_888_227_328), format_count(1_490_520)
    ('8.888B', '1.491M')
    """
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.3f}{unit}"
    return str(count)


def metrics_table(metrics: Mapping[str, Metrics], *, budget_bytes: int | None, context_tokens: int) -> Table:
    """Models side by side, one column each."""
    table = Table(title=f"Memory is for {context_tokens:,} tokens", title_justify="left")
    table.add_column("")
    for model in metrics:
        table.add_column(model, justify="right")
    rows: list[tuple[str, list[str]]] = [
        ("parameters", [f"{m.params:,}" for m in metrics.values()]),
        ("memory", [format_bytes(m.memory.total_bytes) for m in metrics.values()]),
    ]
    if budget_bytes is not None:
        verdicts = ["fits" if m.memory.total_bytes <= budget_bytes else "too large" for m in metrics.values()]
        rows.append((f"budget {format_bytes(budget_bytes)}", verdicts))
    rows.append(("held-out loss, nats a token", [f"{m.loss:.4f}" for m in metrics.values()]))
    rows.append(("held-out bits a byte", [_optional(m.bits_per_byte, "{:.4f}") for m in metrics.values()]))
    rows.append(("KL to teacher, nats a token", [_optional(m.kl_to_teacher, "{:.4f}") for m in metrics.values()]))
    first = next(iter(metrics.values()))
    if first.task is not None:
        name = f"{first.task}, exact match of {first.problems}"
        rows.append((name, [_optional(m.exact_match, "{:.1%}") for m in metrics.values()]))
    rows += _speed_rows([m.speed for m in metrics.values()])
    for label, cells in rows:
        table.add_row(label, *cells)
    return table


def _speed_rows(speeds: Sequence[Speed | None]) -> list[tuple[str, list[str]]]:
    measured = [speed for speed in speeds if speed is not None]
    if not measured:
        return [("output tokens/s", ["not measured"] * len(speeds))]
    return [
        (
            f"output tokens/s, {measured[0].concurrency} at once",
            ["-" if speed is None else f"{speed.tokens_per_s.median:,.0f}" for speed in speeds],
        ),
        ("output tokens/s to the teacher's", ["-" if one is None else one.ratio.text(".2f") for one in speeds]),
    ]


def _size_columns(candidates: Sequence[CandidateRecord]) -> dict[str, list[str]]:
    """Columns of the sizes that the models have."""
    columns = {
        "FFN": ("intermediate_size",),
        "Mamba heads": ("mamba_num_heads", "mamba_head_dim"),
        "experts": ("n_routed_experts", "moe_intermediate_size"),
        "shared expert": ("moe_shared_expert_intermediate_size",),
    }
    return {
        title: [" x ".join(str(candidate.shape.sizes[size]) for size in sizes) for candidate in candidates]
        for title, sizes in columns.items()
        if candidates[0].shape.sizes.get(sizes[0])
    }


def candidates_table(search: SearchRecord) -> Table:
    """Candidates of a search, the chosen one first; values that were not predicted or measured have no column.

    A star marks those on the Pareto front.
    """
    candidates = search.candidates
    columns: dict[str, list[str]] = {
        "#": [f"{number}{'*' if each.on_front else ''}" for number, each in enumerate(candidates, start=1)],
        "blocks": [str(len(each.layers)) for each in candidates],
        "hidden": [str(each.shape.hidden_size) for each in candidates],
        **_size_columns(candidates),
        "params": [format_count(each.params) for each in candidates],
        "memory": [format_bytes(each.memory.total_bytes) for each in candidates],
    }
    if len({each.shape.num_attention_heads for each in candidates}) > 1:
        columns["heads"] = [str(each.shape.num_attention_heads) for each in candidates]
    if search.device is not None:
        columns[f"tokens/s on {search.device}"] = [_optional(each.tokens_per_s, "{:.1f}") for each in candidates]
    columns["kept"] = [_optional(each.retained, "{:.1%}") for each in candidates]
    columns |= _measured_columns(candidates)
    table = Table(
        title=f"{search.num_feasible:,} of {search.num_shapes:,} shapes fit "
        f"{format_bytes(search.budget_bytes)}; chosen by: {search.chosen_by}",
        title_justify="left",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _measured_columns(candidates: Sequence[CandidateRecord]) -> dict[str, list[str]]:
    measured = {
        "zero-shot KL": [each.zero_shot for each in candidates],
        "repaired KL": [each.repaired for each in candidates],
    }
    columns = {
        title: [_optional(one.kl if one else None, "{:.4f}") for one in found]
        for title, found in measured.items()
        if any(found)
    }
    for tokens in sorted({round_.tokens for each in candidates for round_ in each.rounds}):
        found = [next((one.kl for one in each.rounds if one.tokens == tokens), None) for each in candidates]
        columns[f"KL at {format_count(tokens)}"] = [_optional(kl, "{:.4f}") for kl in found]
    return columns


def fit_table(found: ModelFit) -> Table:
    """Whether a model fits: its bytes by what they hold, and what is left."""
    report = found.report
    table = Table(title=report.verdict, title_justify="left", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("parameters", f"{report.params:,}")
    memory = asdict(report.memory)
    for part, label in PART_LABELS.items():
        held = format_bytes(memory[f"{part}_bytes"])
        if part == "weights":
            label = f"weights, {found.weights_dtype}"
        if part == "workspace" and report.workspace_low_bytes != report.memory.workspace_bytes:
            label, held = "workspace, assumed", f"{format_bytes(report.workspace_low_bytes)} to {held}"
        table.add_row(label, held)
    table.add_row("total", format_bytes(report.memory.total_bytes), style="bold")
    table.add_row("budget", format_bytes(report.budget_bytes))
    table.add_row("headroom", format_bytes(report.headroom_bytes), style="bold", end_section=True)
    for kind, block in found.block_memory.items():
        parts = [f"weights {format_bytes(block.weights_bytes)}"]
        cache = block.kv_bytes + block.ssm_bytes + block.conv_bytes
        parts += [f"cache {format_bytes(cache)}"] if cache else []
        table.add_row(f"{found.block_counts[kind]} {found.block_kinds[kind]} blocks, each", ", ".join(parts))
    table.add_section()
    blocks = report.cache_blocks
    if blocks is not None:
        table.add_row("vLLM cache block", f"{blocks.block_tokens:,} tokens, {blocks.page_bytes:,} bytes a layer")
        counts = f"{report.num_cache_blocks:,} / {blocks.blocks_per_sequence:,}"
        table.add_row("vLLM cache blocks, in all / a sequence", counts)
    if found.prefix_caching_bytes:
        table.add_row("saved by --no-prefix-caching", format_bytes(found.prefix_caching_bytes))
    largest = {"context, tokens": report.max_context_tokens, "number of sequences": report.max_sequences}
    for label, limit in largest.items():
        table.add_row(f"largest {label}", "no limit" if limit is None else f"{limit:,}")
    if found.tokens_per_s is not None:
        table.add_row("predicted output tokens/s, largest batch", f"{found.tokens_per_s:.1f}")
    return table


def quantized_table(result: Mapping[str, int | float | str | None]) -> Table:
    """Bytes that quantization saved, and its KL."""
    before, after, kl = (
        None if (found := result[name]) is None else float(found)
        for name in ("weights_bytes_before", "weights_bytes_after", "kl_to_unquantized")
    )
    assert before is not None
    assert after is not None
    table = Table(title=f"Weights as {result['format']}", title_justify="left", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("parameters", f"{result['params']:,}")
    table.add_row("weights before", format_bytes(before))
    table.add_row("weights after, scales included", f"{format_bytes(after)} ({after / before:.1%})")
    table.add_row("KL to the unquantized model, nats a token", _optional(kl, "{:.4f}"))
    return table


def scores_table(summary: Sequence[BlockSummary]) -> Table:
    """One line a block: its kind, its depth score, and how unevenly its units matter."""
    table = Table(title="Importance by block", title_justify="left")
    for column in ("block", "kind", "depth score", "removed as", "units", "lowest / mean", "highest / mean"):
        table.add_column(column, justify="right")
    for block in summary:
        table.add_row(
            str(block.layer),
            block.kind,
            f"{block.depth:.4g}",
            _optional(block.removed, "{}"),
            _optional(block.units, "{}"),
            _optional(block.lowest, "{:.3f}"),
            _optional(block.highest, "{:.3f}"),
        )
    return table


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
