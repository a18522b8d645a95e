"""The model card of a pruned or distilled checkpoint: results, how to load it, how it was made, its limits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml

from minitron.artifacts.json_files import JsonObject, JsonValue
from minitron.checkpoints.lineage import Lineage, TeacherRecord
from minitron.evaluate.metrics import Metrics
from minitron.report.card_settings import step_settings
from minitron.report.serving_commands import ServingCommand
from minitron.report.tables import format_count
from minitron.units import format_bytes

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
# What the card's header calls the text that a run is measured on.
TASK = {"type": "text-generation"}
HELD_OUT = {"name": "held-out text of the run", "type": "held-out"}

_PAST = {
    "vocabulary": "left with the tokens that a text uses",
    "prune": "pruned",
    "distill": "distilled from its teacher's logits",
    "correct": "fine-tuned on the text of the distillation",
    "merge": "merged with other checkpoints of its shape",
    "extract": "extracted from a larger student that it was trained in",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardResults:
    """What a run measured of a model, against its teacher.

    Attributes:
        teacher: The teacher's metrics.
        model: The model's.
        sequences: Sequences of held-out text.
        seq_len: Tokens of each.
        budget_bytes: Bytes that the model may take.
        context_tokens: Tokens that they are for.
        accounting: How they are counted.
    """

    teacher: Metrics
    model: Metrics
    sequences: int
    seq_len: int
    budget_bytes: int
    context_tokens: int
    accounting: str

    @property
    def fits(self) -> bool:
        """Whether the model is within the budget."""
        return self.model.memory.total_bytes <= self.budget_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A model that a card is of.

    Attributes:
        name: What the card calls it.
        params: Its parameters.
        shape: Its shape's dims by name.
    """

    name: str
    params: int
    shape: Mapping[str, int | str]


def model_card(
    lineage: Lineage, model: Described, *, commands: Sequence[ServingCommand], results: CardResults | None = None
) -> str:
    """A README.md for the hub, as markdown with its YAML header.

    Args:
        lineage: Teacher and steps.
        model: What it is of.
        commands: How to load and serve it.
        results: What was measured; None where nothing has been yet.
    """
    teacher, steps = lineage["teacher"], lineage["steps"]
    made = ", then ".join(_PAST[str(step["step"])] for step in steps)
    header = yaml.safe_dump(card_header(lineage, model.name, results), sort_keys=False, allow_unicode=True)
    lines = [
        f"# {model.name}",
        "",
        f"{format_count(model.params)} parameters, made from {teacher['name']} ({format_count(teacher['params'])}) by "
        f"minitron: {made}.",
        "",
        *_results(results),
        *_loading(commands),
        "## Shape",
        "",
        *_shape_table(teacher, model.params, model.shape),
        "",
        "## How it was made",
        "",
        *(line for number, step in enumerate(steps, start=1) for line in _describe(number, step)),
        *_limits(steps, results),
        *_origin(teacher),
    ]
    return f"---\n{header}---\n\n" + "\n".join(lines) + "\n"


def card_header(lineage: Lineage, name: str, results: CardResults | None) -> JsonObject:
    """The card's header: what the hub reads."""
    teacher = lineage["teacher"]
    header: JsonObject = {
        "base_model": teacher["name"],
        **teacher.get("card", {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["minitron", *dict.fromkeys(str(step["step"]) for step in lineage["steps"])],
    }
    if results is not None:
        header["model-index"] = [{"name": name, "results": [*_evaluations(results.model)]}]
    return header


def _evaluations(metrics: Metrics) -> Iterator[JsonValue]:
    """Results in the hub's form: one dataset each, with its metrics."""
    found: list[JsonValue] = [{"type": "loss", "name": "loss, nats a token", "value": metrics.loss}]
    if metrics.bits_per_byte is not None:
        found.append({"type": "bits_per_byte", "name": "bits a byte", "value": metrics.bits_per_byte})
    if metrics.kl_to_teacher is not None:
        found.append(
            {"type": "kl_divergence", "name": "KL to the teacher, nats a token", "value": metrics.kl_to_teacher}
        )
    yield {"task": {**TASK}, "dataset": {**HELD_OUT}, "metrics": found}
    if metrics.task is not None and metrics.exact_match is not None:
        kind = "".join(letter if letter.isalnum() else "-" for letter in metrics.task.lower())
        exact: JsonObject = {"type": "exact_match", "name": "exact match", "value": metrics.exact_match}
        yield {"task": {**TASK}, "dataset": {"name": metrics.task, "type": kind}, "metrics": [exact]}


def _results(results: CardResults | None) -> Iterator[str]:
    yield from ("## Results", "")
    if results is None:
        yield from ("Not measured yet when this card was written.", "")
        return
    teacher, model = results.teacher, results.model
    yield "| | teacher | this model |"
    yield "|---|---|---|"
    yield _row("held-out loss, nats a token", teacher.loss, model.loss, ".4f")
    yield _row("held-out bits a byte", teacher.bits_per_byte, model.bits_per_byte, ".4f")
    yield _row("KL to the teacher, nats a token", teacher.kl_to_teacher, model.kl_to_teacher, ".4f")
    if model.task is not None:
        yield _row(f"{_cell(model.task)}, exact match", teacher.exact_match, model.exact_match, ".1%")
    at = f"memory at {results.context_tokens:,} tokens"
    yield f"| {at} | {format_bytes(teacher.memory.total_bytes)} | {format_bytes(model.memory.total_bytes)} |"
    if teacher.speed is not None and model.speed is not None:
        speeds = (one.tokens_per_s.text(",.0f") for one in (teacher.speed, model.speed))
        yield f"| output tokens/s, {model.speed.concurrency} at once in transformers | {' | '.join(speeds)} |"
    verdict = "fits" if results.fits else "does not fit"
    counted = "vLLM's cache blocks" if results.accounting == "vllm" else "what is stored"
    yield from (
        "",
        f"Loss and KL are of {results.sequences:,} held-out sequences of {results.seq_len:,} tokens.",
        "",
        f"**Budget**: {format_bytes(results.budget_bytes)} at {results.context_tokens:,} tokens, counting {counted}; "
        f"this model **{verdict}**.",
        "",
    )


def _row(label: str, teacher: float | None, model: float | None, form: str) -> str:
    cells = ("-" if value is None else format(value, form) for value in (teacher, model))
    return f"| {label} | {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _loading(commands: Sequence[ServingCommand]) -> Iterator[str]:
    yield from ("## How to load it", "")
    for command in commands:
        yield from (f"{command.engine}: {command.about}", "")
        if command.text:
            yield from (f"```{command.language}", command.text, "```", "")


def _limits(steps: Sequence[JsonObject], results: CardResults | None) -> Iterator[str]:
    yield from ("## Limits", "")
    if not any(step["step"] == "distill" for step in steps):
        yield "- It has not been distilled since it was cut: expect it to be much worse than after."
    if any(step["step"] == "vocabulary" for step in steps):
        yield "- Text that the vocabulary was not counted on takes more tokens."
    if results is not None and not results.fits:
        yield "- It takes more memory than its budget."
    yield "- What was measured is above; nothing else was, safety and other languages included."
    yield "- What holds of its teacher (biases, licence, uses that it is not meant for) holds of it, too."
    yield ""


def _origin(teacher: TeacherRecord) -> Iterator[str]:
    yield from ("## What it was made from", "", f"- teacher: {teacher['name']}, {teacher['params']:,} parameters")
    hub = teacher.get("hub")
    if hub is not None:
        yield f"- its commit on the hub: `{hub['commit']}`"
    for part, digest in teacher["sha256"].items():
        yield f"- SHA-256 of its {part} files: `{digest}`"
    license_name = teacher.get("card", {}).get("license")
    yield f"- licence of the teacher: {license_name or 'its card names none'}"
    yield from ("", "The whole lineage, every setting included, is in `lineage.json`.")


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
    yield from (f"{number}. **{_PAST.get(str(step['step']), step['step'])}**", "")
    settings = step_settings(step)
    if settings:
        yield from ("| setting | |", "|---|---|")
        yield from (f"| {label} | {_cell(value)} |" for label, value in settings.items())
        yield ""
