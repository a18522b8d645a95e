"""Repairs the lists of modules that a ModelOpt export leaves unquantized.

ModelOpt 0.47 (modelopt/torch/export/quant_aware_conversion.py, build_reverse_name_mapper) closes each name with a mark
that holds a NUL, and for nemotron_h its own renaming garbles the mark, which then stays in the names.
"""

import json
from pathlib import Path

from minitron.artifacts.json_files import JsonObject
from minitron.checkpoints.checkpoint import Checkpoint
from minitron.errors import MinitronError

HF_QUANT_CONFIG = "hf_quant_config.json"


def repaired_name(name: str) -> str:
    r"""A module's name without the mark that ModelOpt leaves behind it.

    >>> repaired_name("backbone.layers.0.mixer.conv1d.\0backbone.pt_name_sentinel")
    'backbone.layers.0.mixer.conv1d'
    """
    return name.partition("\0")[0].removesuffix(".")


def repaired_quantization(export: Path) -> tuple[JsonObject, JsonObject]:
    """(`quantization_config` of config.json, hf_quant_config.json) of an export, with repaired names.

    Raises:
        MinitronError: The export does not say how it was quantized.
    """
    config = json.loads((export / "config.json").read_text(encoding="utf-8"))
    try:
        embedded = config["quantization_config"]
        beside = json.loads((export / HF_QUANT_CONFIG).read_text(encoding="utf-8"))
    except (KeyError, FileNotFoundError) as error:
        raise MinitronError("ModelOpt must say how the weights were quantized, it says nothing") from error
    embedded["ignore"] = [repaired_name(name) for name in embedded.get("ignore", [])]
    beside["quantization"]["exclude_modules"] = [
        repaired_name(name) for name in beside["quantization"].get("exclude_modules", [])
    ]
    return embedded, beside


def stated_lists(written: Checkpoint) -> dict[str, list[str]]:
    """Where an export says which modules are not quantized -> those that it names there."""
    beside = json.loads((written.folder / HF_QUANT_CONFIG).read_text(encoding="utf-8"))
    return {
        "quantization_config.ignore": written.config["quantization_config"]["ignore"],
        f"exclude_modules of {HF_QUANT_CONFIG}": beside["quantization"]["exclude_modules"],
    }
