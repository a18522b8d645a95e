"""Repairs and checks the lists of modules that a ModelOpt export leaves unquantized.

ModelOpt 0.47 (modelopt/torch/export/quant_aware_conversion.py, build_reverse_name_mapper) closes each name with a mark
that holds a NUL, and for nemotron_h its own renaming garbles the mark, which then stays in the names.
"""

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
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


def check_ignored(written: Checkpoint) -> None:
    """Checks that both lists name real modules, every matrix that is not quantized, and none that is.

    Raises:
        MinitronError: A list breaks the rule.
    """
    beside = json.loads((written.folder / HF_QUANT_CONFIG).read_text(encoding="utf-8"))
    lists = {
        "quantization_config.ignore": written.config["quantization_config"]["ignore"],
        f"exclude_modules of {HF_QUANT_CONFIG}": beside["quantization"]["exclude_modules"],
    }
    # A head that is the embeddings, too, is a module that no file holds.
    names = {*written.tensors, written.shape.family.head}
    modules = {name.removesuffix(".weight") for name in names if name.endswith(".weight")}
    quantized = {name.removesuffix(".weight_scale") for name in written.scales if name.endswith(".weight_scale")}
    matrices = {name.removesuffix(".weight") for name, spec in written.shape.tensors().items() if len(spec.dims) == 2}
    for where, names in lists.items():
        _check_list(where, names, modules, quantized, matrices)


def _check_list(where: str, names: Sequence[str], modules: set[str], quantized: set[str], matrices: set[str]) -> None:
    covered = {name: {module for module in modules if fnmatchcase(module, name)} for name in names}
    empty = sorted(name for name, found in covered.items() if not found)
    if empty:
        raise MinitronError(f"{where} must name modules of the checkpoint, {empty[0]!r} is none")
    ignored = set().union(*covered.values())
    if ignored & quantized:
        raise MinitronError(f"{where} must not name quantized modules, it names {min(ignored & quantized)}")
    missing = matrices - quantized - ignored
    if missing:
        raise MinitronError(f"{where} must name every matrix that is not quantized, it lacks {min(missing)}")
