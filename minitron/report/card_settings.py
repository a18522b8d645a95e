"""The settings of a step that a model card names; the others are in the lineage."""

from collections.abc import Sequence

from minitron.artifacts.json_files import JsonObject, JsonValue

# Label -> where the lineage has it; of a list, each entry is looked into.
SHOWN = {
    "removed blocks": ("removed_blocks",),
    "samples that were scored": ("scored", "settings", "samples"),
    "tokens of each": ("scored", "settings", "seq_len"),
    "samples of the compensation": ("compensated", "samples"),
    "samples that block widths were chosen on": ("allocated", "samples"),
    "samples of the repair": ("repaired", "samples"),
    "epochs of the repair": ("repaired", "epochs"),
    "kept tokens of the vocabulary": ("vocab_size",),
    "share of the text that they cover": ("coverage",),
    "merged checkpoints": ("sources", "name"),
    "SHA-256 of their models": ("sources", "sha256", "model"),
    "weights": ("weights",),
    "extracted student": ("student",),
    "tokens": ("tokens",),
    "sequence length": ("phases", "seq_len"),
    "batch size": ("phases", "batch_size"),
    "learning rate": ("phases", "learning_rate"),
    "divergence": ("phases", "loss", "divergence"),
    "temperature": ("phases", "loss", "temperature"),
    "seed": ("seed",),
}


def step_settings(step: JsonObject) -> dict[str, str]:
    """Label -> value, of the settings that the step has.

    >>> step_settings({"step": "distill", "tokens": 4096, "phases": [{"seq_len": 8}, {"seq_len": 16}]})
    {'tokens': '4,096', 'sequence length': '8, 16'}
    """
    found = {label: _look(step, path) for label, path in SHOWN.items()}
    return {label: ", ".join(map(_text, values)) for label, values in found.items() if values}


def _look(value: JsonValue, path: Sequence[str]) -> list[JsonValue]:
    if isinstance(value, list):
        return [found for inner in value for found in _look(inner, path)]
    if not path:
        return [] if value is None or value == {} else [value]
    return _look(value.get(path[0]), path[1:]) if isinstance(value, dict) else []


def _text(value: JsonValue) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
