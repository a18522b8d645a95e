"""The model card of a pruned or distilled checkpoint, from its lineage."""

from collections.abc import Iterator, Mapping

import yaml

from minitron.artifacts.json_files import JsonObject, JsonValue
from minitron.checkpoints.lineage import Lineage, TeacherRecord
from minitron.report.tables import format_count

SIZE_LABELS = {
    "hidden_size": "hidden size",
    "intermediate_size": "FFN width",
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "heads of keys and values",
    "linear_num_key_heads": "key heads of gated DeltaNet",
    "linear_num_value_heads": "value heads of gated DeltaNet",
    "mamba_num_heads": "Mamba heads",
    "mamba_head_dim": "channels of a Mamba head",
    "n_routed_experts": "routed experts",
    "moe_intermediate_size": "FFN width of an expert",
    "moe_shared_expert_intermediate_size": "FFN width of the shared expert",
}


def model_card(lineage: Lineage, *, name: str, params: int, shape: Mapping[str, int | str]) -> str:
    """A README.md for the hub: what the model is, how it was made, and from what, as markdown with its YAML header.

    Args:
        lineage: Teacher and steps.
        name: What the card calls the model.
        params: Its parameters.
        shape: Its shape's dims by name.
    """
    teacher, steps = lineage["teacher"], lineage["steps"]
    tags = ["minitron", *dict.fromkeys(str(step["step"]) for step in steps)]
    header = {"base_model": teacher["name"], "library_name": "transformers", "pipeline_tag": "text-generation"}
    return "\n".join(
        [
            "---",
            yaml.safe_dump({**header, "tags": tags}, sort_keys=False).rstrip(),
            "---",
            "",
            f"# {name}",
            "",
            f"{format_count(params)} parameters, made from {teacher['name']} ({format_count(teacher['params'])}) by "
            "minitron: " + ", then ".join(_PAST[str(step["step"])] for step in steps) + ".",
            "",
            *_shape_table(teacher, params, shape),
            "",
            "## How it was made",
            "",
            *(line for number, step in enumerate(steps, start=1) for line in _describe(number, step)),
            "## What it was made from",
            "",
            f"- teacher: {teacher['name']}, {teacher['params']:,} parameters",
            *(f"- its commit on the hub: `{hub['commit']}`" for hub in [teacher.get("hub")] if hub is not None),
            *(f"- SHA-256 of its {part} files: `{digest}`" for part, digest in teacher["sha256"].items()),
            "",
            "The whole lineage, every setting included, is in `lineage.json`.",
            "",
        ]
    )


_PAST = {
    "vocabulary": "left with the tokens that a text uses",
    "prune": "pruned",
    "distill": "distilled from its teacher's logits",
    "correct": "fine-tuned on the text of the distillation",
    "merge": "merged with other checkpoints of its shape",
    "extract": "extracted from a larger student that it was trained in",
}


def _shape_table(teacher: TeacherRecord, params: int, shape: Mapping[str, int | str]) -> Iterator[str]:
    before = teacher["shape"]
    yield "| | teacher | this model |"
    yield "|---|---|---|"
    yield f"| parameters | {teacher['params']:,} | {params:,} |"
    patterns = str(before["hybrid_override_pattern"]), str(shape["hybrid_override_pattern"])
    yield f"| blocks | {len(patterns[0])} | {len(patterns[1])} |"
    for size, label in SIZE_LABELS.items():
        if before.get(size):
            yield f"| {label} | {before[size]:,} | {shape.get(size) or 0:,} |"
    yield f"| pattern | `{patterns[0]}` | `{patterns[1]}` |"


def _describe(number: int, step: JsonObject) -> Iterator[str]:
    yield f"{number}. **{_PAST.get(str(step['step']), step['step'])}**"
    yield from _bullets({key: value for key, value in step.items() if key != "step"}, indent="   ")
    yield ""


def _bullets(settings: JsonObject, *, indent: str) -> Iterator[str]:
    for key, value in settings.items():
        label = f"{indent}- {key.replace('_', ' ')}:"
        if value is None or value in ([], {}):
            continue
        if isinstance(value, dict):
            yield label
            yield from _bullets(value, indent=indent + "  ")
        elif isinstance(value, list | tuple) and isinstance(value[0], dict):
            for number, inner in enumerate((one for one in value if isinstance(one, dict)), start=1):
                yield f"{indent}- {key.replace('_', ' ')} {number}:"
                yield from _bullets(inner, indent=indent + "  ")
        else:
            yield f"{label} {_inline(value)}"


def _inline(value: JsonValue) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_inline(inner) for inner in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
