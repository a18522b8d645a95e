"""Reads and writes a model's shape in a Hugging Face `config.json`, in every spelling that has been published."""

import json
from collections.abc import Mapping
from pathlib import Path

from minitron.artifacts.json_files import JsonFaultError, JsonObject, JsonValue, parse_json
from minitron.errors import ShapeError
from minitron.models.families import FAMILIES
from minitron.models.families.family import Family
from minitron.models.nearest import nearest_family
from minitron.models.shape import FFN_AXIS, HybridShape
from minitron.models.text_config import text_config

# Classes beside a checkpoint that transformers needs, and is told of, where FFN widths differ by block.
BLOCK_WIDTH_CLASSES = {
    "AutoConfig": "configuration_block_widths.BlockWidthsConfig",
    "AutoModelForCausalLM": "modeling_block_widths.BlockWidthsForCausalLM",
}


def read_config(folder: Path) -> JsonObject:
    """The `config.json` of a checkpoint folder, as it stands; of a model that sees, too, that of its text model.

    Raises:
        ShapeError: The folder or the file is missing, or the file is not a JSON object.
    """
    path = folder / "config.json" if folder.is_dir() else folder
    if not path.is_file():
        raise ShapeError(f"a checkpoint must be a folder with a config.json, {folder} has none")
    try:
        config = parse_json(path.read_bytes())
    except JsonFaultError as error:
        raise ShapeError(f"config.json must be valid JSON, {path} {error}") from error
    if not isinstance(config, dict):
        raise ShapeError(f"config.json must hold an object, {path} holds a {type(config).__name__}")
    return text_config(config)


def shape_from_config(config: Mapping[str, object]) -> HybridShape:
    """The shape that a configuration describes.

    Raises:
        ShapeError: The family is unknown, a dim is missing, or two spellings of one dim disagree.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        nearest = nearest_family(config)
        raise ShapeError(
            f"model_type must be one of {', '.join(FAMILIES)}, got {model_type!r}" + (f"; {nearest}" if nearest else "")
        )
    family = FAMILIES[model_type]
    for key, allowed in family.only_values.items():
        if config.get(key) not in (None, *allowed):
            expected = " or ".join(json.dumps(value) for value in allowed)
            raise ShapeError(f"{key} in config.json must be {expected} for {model_type}, got {config[key]!r}")
    pattern = family.pattern.read(config)
    unused = {size for kind, sizes in family.kind_sizes.items() if kind not in pattern for size in sizes}
    sizes: dict[str, int] = {}
    widths, given = _read_block_widths(config, family)
    for key in family.config_keys:
        sizes[key] = 0 if key in unused else _read_size(given, family, key, sizes)
    for key, implied in family.derived.items():
        if config.get(key) is not None and config[key] != implied(sizes):
            raise ShapeError(f"{key} in config.json must be {implied(sizes)} by its other sizes, got {config[key]!r}")
    return HybridShape(model_type=model_type, hybrid_override_pattern=pattern, block_widths=widths, **sizes)


def config_for_shape(source: Mapping[str, JsonValue], shape: HybridShape) -> JsonObject:
    """The source's configuration with the shape put in: its keys, in its spelling, changed where the shape is another.

    Added are a dim's first spelling where the source has another or its default no longer holds, lists of blocks where
    the family asks for them or a rule of the source no longer gives them (nemotron_h's pattern to a list: readers of
    the list pass over it, llama.cpp's converter and TensorRT-LLM need it; a list beside a pattern would stop readers
    that know the pattern alone), and sizes that a reader would assume otherwise. Kinds of block are spelt in the names
    that every reader of lists takes. Left out are sizes of kinds of block that are not there, and values that have no
    spelling in JSON. FFN widths that differ by block are a list of those of the blocks with an FFN, and the
    configuration names the classes for them (`BLOCK_WIDTH_CLASSES`).
    """
    family: Family = shape.family
    config: JsonObject = dict(source)
    for key in family.config_keys:
        if key not in family.switches and shape.sizes[key]:
            config |= dict.fromkeys(_spellings_to_write(source, shape, key), shape.sizes[key])
    for kind, sizes in family.kind_sizes.items():
        if kind not in shape.hybrid_override_pattern:
            # llama.cpp's converter takes a model for one of experts by such a key alone.
            absent = {spelling for size in sizes for spelling in family.config_keys[size]}
            config = {key: value for key, value in config.items() if key not in absent}
    for key, assumed in family.left_out.items():
        if config.get(key) in assumed:
            del config[key]
    for key, told in family.told.items():
        value = told(shape.sizes)
        if value is not None:
            config.setdefault(key, value)
    if shape.block_widths:
        config |= {key: list(shape.block_widths) for key in _spellings_to_write(source, shape, FFN_AXIS)}
        config["auto_map"] = {**BLOCK_WIDTH_CLASSES}
    config |= {key: implied(shape.sizes) for key, implied in family.derived.items()}
    config |= family.pattern.write(source, shape.hybrid_override_pattern)
    return {key: value for key, value in config.items() if value is not None or source.get(key, 0) is None}


def equal_widths_config(config: Mapping[str, object], shape: HybridShape) -> dict[str, object]:
    """A configuration that transformers' own classes take, with the mean for FFN widths that differ by block."""
    if not shape.block_widths:
        return dict(config)
    spelt = {key: shape.intermediate_size for key in shape.family.config_keys[FFN_AXIS] if key in config}
    return {key: value for key, value in config.items() if key != "auto_map"} | spelt


def _read_block_widths(config: Mapping[str, object], family: Family) -> tuple[tuple[int, ...], Mapping[str, object]]:
    """FFN widths that are listed, and the configuration with their mean in place of the list."""
    for key in family.config_keys.get(FFN_AXIS, ()):
        widths = config.get(key)
        if not isinstance(widths, list):
            continue
        if not widths or not all(isinstance(width, int) and not isinstance(width, bool) for width in widths):
            raise ShapeError(f"{key} in config.json must be a whole number or a list of them, got {widths!r}")
        if sum(widths) % len(widths):
            raise ShapeError(f"the mean of {key} in config.json must be a whole number, that of {widths} is none")
        return tuple(widths), {**config, key: sum(widths) // len(widths)}
    return (), config


def _spellings_to_write(source: Mapping[str, JsonValue], shape: HybridShape, key: str) -> list[str]:
    """The spellings of a dim that the source has, and the family's first one unless its default is this size."""
    family = shape.family
    spelt = [spelling for spelling in family.config_keys[key] if source.get(spelling) is not None]
    default = family.defaults.get(key)
    first = family.config_keys[key][0]
    if first in spelt or (not spelt and default is not None and default(shape.sizes) == shape.sizes[key]):
        return spelt
    return [*spelt, first]


def _read_size(config: Mapping[str, object], family: Family, key: str, before: Mapping[str, int]) -> int:
    spellings = family.config_keys[key]
    found = {spelling: config[spelling] for spelling in spellings if config.get(spelling) is not None}
    if not found and key in family.defaults:
        return family.defaults[key](before)
    if not found:
        raise ShapeError(f"config.json must give {' or '.join(spellings)}, it has none of them")
    is_switch = key in family.switches
    sizes: set[int] = set()
    for size in found.values():
        if not isinstance(size, int) or isinstance(size, bool) is not is_switch:
            expected = "true or false" if is_switch else "a whole number"
            raise ShapeError(f"{key} in config.json must be {expected}, got {size!r}")
        sizes.add(int(size))
    if len(sizes) > 1:
        listed = ", ".join(f"{spelling}={size}" for spelling, size in found.items())
        raise ShapeError(f"spellings of {key} in config.json must agree, got {listed}")
    return sizes.pop()
