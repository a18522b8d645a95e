"""Reads and writes a model's shape in a Hugging Face `config.json`, in every spelling that has been published."""

import json
from collections.abc import Mapping
from pathlib import Path

from minitron.artifacts.json_files import JsonObject, JsonValue
from minitron.errors import ShapeError
from minitron.models.families import FAMILIES
from minitron.models.families.family import Family
from minitron.models.shape import HybridShape

# Kinds of block as older and newer configurations spell them in `layers_block_type`.
KIND_LETTERS = {
    "linear_attention": "M",
    "mamba": "M",
    "full_attention": "*",
    "attention": "*",
    "mlp": "-",
    "moe": "E",
}

# Keys that list the kinds of a model's blocks, one a block.
BLOCK_LISTS = ("layers_block_type", "layer_types")
# What llama.cpp's converter assumes of a Mamba head where there is no `mamba_d_head`; heads must fill it evenly.
CONVERTER_HEAD_DIM = 64
# What SGLang 0.5.23 (configs/nemotron_h.py) takes where there is no `mamba_n_groups`, whatever `n_groups` is.
SGLANG_GROUPS = 8


def read_config(folder: Path) -> JsonObject:
    """The `config.json` of a checkpoint folder, as it stands.

    Raises:
        ShapeError: The folder or the file is missing, or the file is not a JSON object.
    """
    path = folder / "config.json" if folder.is_dir() else folder
    if not path.is_file():
        raise ShapeError(f"a checkpoint must be a folder with a config.json, {folder} has none")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ShapeError(f"config.json must be valid JSON, {path} is not: {error}") from error
    if not isinstance(config, dict):
        raise ShapeError(f"config.json must hold an object, {path} holds a {type(config).__name__}")
    return config


def shape_from_config(config: Mapping[str, object]) -> HybridShape:
    """The shape that a configuration describes.

    Raises:
        ShapeError: The family is unknown, a dim is missing, or two spellings of one dim disagree.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ShapeError(f"model_type must be one of {', '.join(FAMILIES)}, got {model_type!r}")
    family = FAMILIES[model_type]
    for key, allowed in family.only_values.items():
        if config.get(key) not in (None, *allowed):
            expected = " or ".join(json.dumps(value) for value in allowed)
            raise ShapeError(f"{key} in config.json must be {expected} for {model_type}, got {config[key]!r}")
    pattern = _read_pattern(config, family)
    unused = {size for kind, sizes in family.kind_sizes.items() if kind not in pattern for size in sizes}
    sizes: dict[str, int] = {}
    for key in family.config_keys:
        sizes[key] = 0 if key in unused else _read_size(config, family, key, sizes)
    return HybridShape(model_type=model_type, hybrid_override_pattern=pattern, **sizes)


def config_for_shape(source: Mapping[str, JsonValue], shape: HybridShape) -> JsonObject:
    """The source's configuration with the shape put in: its keys, in its spelling, changed where the shape is another.

    Added are a dim's canonical spelling where the source has another or its default no longer holds, the block pattern
    to a list of kinds of block (readers of the list pass over it, llama.cpp's converter and TensorRT-LLM need it; a
    list beside a pattern would stop readers that know the pattern alone), `mamba_d_head` where llama.cpp's converter
    would assume another, and `mamba_n_groups` where SGLang would. Kinds of block are spelt in the older names, which
    every reader of lists takes. Left out are sizes of kinds of block that are not there, and values that have no
    spelling in JSON.
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
    if _converter_misreads_heads(shape):
        config.setdefault("mamba_d_head", shape.mamba_head_dim)
    if shape.n_groups not in (0, SGLANG_GROUPS):
        config.setdefault("mamba_n_groups", shape.n_groups)
    return config | _blocks_config(source, shape)


def _spellings_to_write(source: Mapping[str, JsonValue], shape: HybridShape, key: str) -> list[str]:
    """The spellings of a dim that the source has, and the canonical one unless its default is this size."""
    family = shape.family
    spelt = [spelling for spelling in family.config_keys[key] if source.get(spelling) is not None]
    default = family.defaults.get(key)
    if key in spelt or (not spelt and default is not None and default(shape.sizes) == shape.sizes[key]):
        return spelt
    return [*spelt, key]


def _blocks_config(source: Mapping[str, JsonValue], shape: HybridShape) -> JsonObject:
    """How many blocks there are and of which kinds."""
    family = shape.family
    kinds: list[JsonValue] = [family.block_kinds[letter] for letter in shape.hybrid_override_pattern]
    config: JsonObject = {key: kinds for key in BLOCK_LISTS if source.get(key) is not None}
    config["num_hidden_layers"] = shape.num_hidden_layers
    if family.only_kind is None:
        config["hybrid_override_pattern"] = shape.hybrid_override_pattern
    return config


def _converter_misreads_heads(shape: HybridShape) -> bool:
    inner = shape.mamba_num_heads * shape.mamba_head_dim
    return inner % CONVERTER_HEAD_DIM != 0


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


def _read_pattern(config: Mapping[str, object], family: Family) -> str:
    blocks = config.get("num_hidden_layers")
    if family.only_kind is not None:
        return _uniform_pattern(config, family, blocks)
    pattern = _spelt_pattern(config)
    if blocks is not None and blocks != len(pattern):
        raise ShapeError(f"num_hidden_layers in config.json must be the pattern's {len(pattern)} blocks, got {blocks}")
    return pattern


def _uniform_pattern(config: Mapping[str, object], family: Family, blocks: object) -> str:
    if not isinstance(blocks, int) or isinstance(blocks, bool) or blocks < 1:
        raise ShapeError(f"num_hidden_layers in config.json must be a positive whole number, got {blocks!r}")
    kind = family.block_kinds[family.only_kind or ""]
    named = config.get("layer_types")
    if named is not None and named != [kind] * blocks:
        raise ShapeError(f"layer_types in config.json must be {blocks} times {kind!r}, got {named!r}")
    return (family.only_kind or "") * blocks


def _spelt_pattern(config: Mapping[str, object]) -> str:
    pattern = config.get("hybrid_override_pattern")
    kinds = config.get("layers_block_type") or config.get("layer_types")
    if pattern is None and kinds is None:
        raise ShapeError("config.json must give layers_block_type or hybrid_override_pattern, it has neither")
    if kinds is not None:
        if not isinstance(kinds, list):
            raise ShapeError(f"layers_block_type must be a list, got {kinds!r}")
        unknown = sorted({str(kind) for kind in kinds} - set(KIND_LETTERS))
        if unknown:
            raise ShapeError(f"layers_block_type must hold {', '.join(KIND_LETTERS)}, got {', '.join(unknown)}")
        spelt = "".join(KIND_LETTERS[kind] for kind in kinds)
        if pattern is not None and pattern != spelt:
            raise ShapeError(f"layers_block_type and hybrid_override_pattern must agree, got {spelt} and {pattern}")
        return spelt
    return str(pattern)
