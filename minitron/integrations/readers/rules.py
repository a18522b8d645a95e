"""Rules about keys of `config.json` that several readers have: architectures, sizes, lists of blocks, chunks."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from minitron.integrations.readers.reader import Config, Family, Read, Refusal, Rule
from minitron.models.shape import FFN_AXIS, HybridShape

OLDER_KINDS = {"M": "mamba", "-": "mlp", "*": "attention", "E": "moe"}
# Of each way to quantize that minitron writes: the key of `quantization_config` that names the format.
NAMED_BY = {"modelopt": "quant_algo", "compressed-tensors": "format"}
NEWER_KINDS = {"M": "linear_attention", "-": "mlp", "*": "full_attention", "E": "moe"}


def to_write(key: str, value: object) -> str:
    """What to do about a key that should have another value."""
    return f'write "{key}": {json.dumps(value)}'


def not_given(
    key: str, value: object = None, *, source: str, rule: str = "be given", found: str = "got none"
) -> Refusal:
    """The refusal of a configuration that lacks a key.

    Args:
        key: The key.
        value: What it should be; None where only who trained the model knows.
        source: Where the reader says so.
        rule: What the reader demands of the key.
        found: What was found, and what the reader makes of it.
    """
    mend = "write the value that the model was trained with" if value is None else to_write(key, value)
    return Refusal(key=key, rule=rule, found=found, mend=mend, source=source)


def listed(key: str, shape: HybridShape, *, source: str, rule: str = "be left out") -> Refusal:
    """The refusal of a configuration that lists its blocks where the reader wants them as a pattern."""
    mend = f"{to_write('hybrid_override_pattern', shape.hybrid_override_pattern)} in its place"
    return Refusal(key=key, rule=rule, found="got a list", mend=mend, source=source)


def known_architecture(config: Config, family: Family) -> Iterator[Refusal]:
    """`architectures` must name a class that the reader has."""
    given = config.get("architectures")
    names = given if isinstance(given, list) else [given]
    if family.architectures and not any(name in family.architectures for name in names):
        yield Refusal(
            key="architectures",
            rule=f"hold {' or '.join(family.architectures)}",
            found=f"got {json.dumps(given)}",
            mend=to_write("architectures", family.architectures[:1]),
            source=family.source,
        )


def needed_keys(config: Config, family: Family) -> Iterator[Refusal]:
    """Keys that the reader cannot do without must be there."""
    for key in family.needs:
        if config.get(key) is None:
            yield not_given(key, source=family.source)


def sizes_as_meant(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
    """What the reader takes for a size must be the size: where it does not know the spelling, it takes its default."""
    reads = family.reads
    if shape.block_widths:
        reads = tuple(read for read in reads if read.size != FFN_AXIS)
        if not family.block_widths:
            yield Refusal(
                key=FFN_AXIS,
                rule="be one number",
                found="got a list, of FFN widths that differ by block",
                mend="prune without prune.block_widths, or `minitron export` to a GGUF file for llama.cpp",
                source=family.source,
            )
    for read in reads:
        meant = shape.sizes[read.size]
        taken = _taken(config, read, shape)
        # A size of 0 is one that the model has no use for, unless it says no.
        is_asked = meant or read.size in shape.family.switches
        if is_asked and taken != meant:
            value = bool(meant) if read.size in shape.family.switches else meant
            others = f", under it or {' or '.join(read.keys[1:])}" if read.keys[1:] else ""
            yield Refusal(
                key=read.keys[0],
                rule=f"be {json.dumps(value)}{others}",
                found="got none" if taken is None else f"the reader takes {taken}",
                mend=to_write(read.keys[0], value),
                source=family.source,
            )


def kinds_known(names: Mapping[str, Sequence[str]], *, keys: tuple[str, ...], pattern_first: bool = False) -> Rule:
    """A list of blocks must hold names that the reader knows, unless it goes by the pattern.

    Args:
        names: Letter -> names of that kind that the reader knows, the one to write first.
        keys: The spellings of the list that it knows; the first one that is given counts.
        pattern_first: Whether it goes by `hybrid_override_pattern` where both are given.
    """
    known = {name for spellings in names.values() for name in spellings}

    def rule(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
        has_pattern = config.get("hybrid_override_pattern") is not None
        key = next((key for key in keys if config.get(key) is not None), None)
        kinds = [names[kind][0] for kind in dict.fromkeys(shape.hybrid_override_pattern)]
        if key is None and not has_pattern:
            yield not_given(
                "hybrid_override_pattern",
                shape.hybrid_override_pattern,
                source=family.source,
                rule=f"be given, or {' or '.join(keys)}",
                found="got none, and the reader takes a pattern of its own",
            )
        given = None if key is None or (has_pattern and pattern_first) else config[key]
        unknown = sorted({str(name) for name in given} - known) if isinstance(given, list) else []
        if key is not None and unknown:
            yield Refusal(
                key=key,
                rule=f"hold {', '.join(sorted(known))} alone",
                found=f"got {', '.join(unknown)}",
                mend=f"write it with {', '.join(kinds)}, which newer readers take too",
                source=family.source,
            )

    return rule


def power_of_two(*keys: str, default: int, source: str) -> Rule:
    """The size of a chunk of the scan must be a power of 2."""

    def rule(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
        key = next((key for key in keys if config.get(key) is not None), keys[0])
        size = config.get(key)
        size = default if size is None else size
        if shape.count("MH") and (not isinstance(size, int) or size < 1 or size & (size - 1)):
            yield Refusal(
                key=key,
                rule="be a power of 2",
                found=f"got {size}",
                mend=f"{to_write(key, 128)}; it changes speed alone",
                source=source,
            )

    return rule


def only_values(allowed: Mapping[str, Sequence[object]]) -> Rule:
    """Keys that, where they are given, must have one of some values."""

    def rule(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
        for key, values in allowed.items():
            if config.get(key) is not None and config[key] not in values:
                yield Refusal(
                    key=key,
                    rule=f"be {' or '.join(json.dumps(value) for value in values)}",
                    found=f"got {json.dumps(config[key])}",
                    mend="serve with another reader",
                    source=family.source,
                )

    return rule


def _taken(config: Config, read: Read, shape: HybridShape) -> int | None:
    given = next((config[key] for key in read.keys if config.get(key) is not None), None)
    if isinstance(given, int):
        return int(given)
    default: int | Callable[[Mapping[str, int]], int] | None = read.default
    return default(shape.sizes) if callable(default) else default


def quantizations(
    taken: Mapping[str, Sequence[str]], *, source: str, mends: Mapping[str, str] = MappingProxyType({})
) -> Rule:
    """Of the formats that minitron writes, quantized weights must be of those that the reader computes with.

    Args:
        taken: `quant_method` -> formats of it that are taken, by the names that its configurations have for them.
        source: Where the reader says so.
        mends: Such a name -> what to do instead; another reader for all others.
    """

    def rule(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
        given = config.get("quantization_config")
        method = given.get("quant_method") if isinstance(given, Mapping) else None
        if not isinstance(given, Mapping) or not isinstance(method, str) or method not in NAMED_BY:
            return
        name = str(given.get(NAMED_BY[method]))
        if method not in taken:
            yield Refusal(
                key="quantization_config.quant_method",
                rule=f"be {' or '.join(taken)}, or left out" if taken else "be left out",
                found=f"got {method}",
                mend=mends.get(name, "serve with another reader"),
                source=source,
            )
        elif name not in taken[method]:
            yield Refusal(
                key=f"quantization_config.{NAMED_BY[method]}",
                rule=f"be one of {', '.join(taken[method])}",
                found=f"got {name}",
                mend=mends.get(name, "serve with another reader"),
                source=source,
            )

    return rule


def needed_for_experts(*keys: str) -> Rule:
    """Keys that a reader cannot do without where there are experts."""

    def rule(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
        if shape.count("E"):
            yield from needed_keys(config, replace(family, needs=keys))

    return rule
