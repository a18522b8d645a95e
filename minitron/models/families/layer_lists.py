"""The block pattern in configurations: lists that say something of every block, and what holds where there is none."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from minitron.artifacts.json_files import JsonObject, JsonValue
from minitron.errors import ShapeError
from minitron.models.bounds import check_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerList:
    """A configuration key that tells blocks apart.

    Attributes:
        key: The key.
        values: Letter -> how an entry for such a block is spelt, the spelling that every reader takes first. Letters
            that share a spelling are told apart by another list.
        form: `list`, an entry for each block; `letters`, a string with a character for each; `indices`, the numbers of
            the blocks whose letters are in `values`.
        added: Whether a configuration with another list gets this one, too.
        leaves_open: Whether the default says which of the other letters the blocks are that indices do not list.
    """

    key: str
    values: Mapping[str, tuple[JsonValue, ...]]
    form: Literal["list", "letters", "indices"] = "list"
    added: bool = False
    leaves_open: bool = False

    def letters(self, value: object, blocks: int | None, known: str) -> list[set[str]]:
        """The letters that each block may have, as a value of the key says.

        Raises:
            ShapeError: The value is malformed, or says nothing that is known.
        """
        if self.form == "indices":
            return self._from_indices(value, blocks or 0, known)
        if not isinstance(value, str if self.form == "letters" else list):
            raise ShapeError(f"{self.key} must be a {'string' if self.form == 'letters' else 'list'}, got {value!r}")
        entries: Sequence[object] = value
        spellings = {letter: self.values[letter] for letter in known if letter in self.values}
        found = [{letter for letter, spelt in spellings.items() if entry in spelt} for entry in entries]
        if not all(found):
            unknown = sorted({str(entry) for entry, letters in zip(entries, found, strict=True) if not letters})
            named = dict.fromkeys(str(each) for spelt in spellings.values() for each in spelt)
            raise ShapeError(f"{self.key} must hold {', '.join(named)}, got {', '.join(unknown)}")
        return found

    def _from_indices(self, value: object, blocks: int, known: str) -> list[set[str]]:
        listed = value if isinstance(value, list) else [value]
        if not all(isinstance(each, int) and not isinstance(each, bool) and 0 <= each < blocks for each in listed):
            raise ShapeError(f"{self.key} must list indices of the {blocks} blocks, got {value!r}")
        inside = set(self.values)
        outside = set(known) if self.leaves_open else set(known) - inside
        return [inside if layer in listed else outside for layer in range(blocks)]

    def fits(self, value: object, blocks: int) -> bool:
        """Whether a value that was read names no block beyond so many."""
        return self.form != "indices" or not isinstance(value, list) or all(each < blocks for each in value)

    def value(self, pattern: str) -> JsonValue:
        """What the key holds for a pattern."""
        if self.form == "indices":
            return [layer for layer, letter in enumerate(pattern) if letter in self.values]
        entries = [self.values[letter][0] for letter in pattern]
        return "".join(str(entry) for entry in entries) if self.form == "letters" else entries


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPattern:
    """How a family's configurations name the kinds of their blocks.

    Attributes:
        letters: The letters of the kinds.
        lists: The lists.
        default: The pattern where no list is given, from the configuration and the number of blocks; None where there
            must be one.
        rules: Key -> value with which it has no say: keys by which transformers makes lists that are not given, as by
            an interval. They are put out of action where a cut leaves another pattern than they make.
    """

    letters: str
    lists: tuple[LayerList, ...]
    default: Callable[[Mapping[str, object], int], str] | None = None
    rules: Mapping[str, JsonValue] = field(default_factory=dict)

    def read(self, config: Mapping[str, object]) -> str:
        """The pattern of a configuration.

        Raises:
            ShapeError: It gives none, or its lists do not agree with each other or with the number of blocks.
        """
        blocks = config.get("num_hidden_layers")
        given = [each for each in self.lists if config.get(each.key) is not None]
        counted = blocks is not None or self.default is not None or any(each.form == "indices" for each in given)
        if counted and (not isinstance(blocks, int) or isinstance(blocks, bool) or blocks < 1):
            raise ShapeError(f"num_hidden_layers in config.json must be a positive whole number, got {blocks!r}")
        assert blocks is None or isinstance(blocks, int)
        check_blocks(blocks or 0)
        found = {each.key: each.letters(config[each.key], blocks, self.letters) for each in given}
        if self.default is not None and blocks is not None and not self._told_apart(given):
            found["the default"] = [{letter} for letter in self.default(config, blocks)]
        if not found:
            raise ShapeError(f"config.json must give {' or '.join(each.key for each in self.lists)}, it has neither")
        return "".join(self._agreed(found, blocks))

    def write(self, source: Mapping[str, JsonValue], pattern: str) -> JsonObject:
        """What a configuration with the pattern holds in place of the source's keys; None for a key that must go."""
        written: JsonObject = {"num_hidden_layers": len(pattern)}
        given = {each.key for each in self.lists if source.get(each.key) is not None}
        closed = [each for each in self.lists if not each.leaves_open]
        written |= {each.key: each.value(pattern) for each in closed if each.key in given or each.added}
        left_open = [each for each in self.lists if each.leaves_open and each.key in given]
        fits = all(each.fits(source[each.key], len(pattern)) for each in left_open)
        if self.default is None or (fits and self.default({**source, **written}, len(pattern)) == pattern):
            return written
        written |= {each.key: each.value(pattern) for each in left_open}
        if self.default({**source, **written}, len(pattern)) == pattern:
            return written
        if not self._told_apart([each for each in self.lists if each.key in given]):
            written |= {each.key: each.value(pattern) for each in self.lists}
        return written | {key: value for key, value in self.rules.items() if source.get(key) is not None}

    def _told_apart(self, lists: Sequence[LayerList]) -> bool:
        closed = [each for each in lists if not each.leaves_open]
        views = {tuple(each.values.get(letter) for each in closed) for letter in self.letters}
        return bool(closed) and len(views) == len(self.letters)

    def _agreed(self, found: Mapping[str, list[set[str]]], blocks: int | None) -> Iterator[str]:
        lengths = {key: len(letters) for key, letters in found.items()}
        if blocks is not None and set(lengths.values()) != {blocks}:
            key = next(key for key, length in lengths.items() if length != blocks)
            raise ShapeError(
                f"{key} in config.json must name num_hidden_layers={blocks} blocks, it names {lengths[key]}"
            )
        if len(set(lengths.values())) > 1:
            named = ", ".join(f"{key} of {length}" for key, length in lengths.items())
            raise ShapeError(f"lists of blocks in config.json must agree, got {named} blocks")
        for layer, letters in enumerate(zip(*found.values(), strict=True)):
            left = set.intersection(*letters)
            if len(left) != 1:
                raise ShapeError(
                    f"{' and '.join(found)} in config.json must agree, of block {layer} they "
                    f"{'leave ' + ' or '.join(sorted(left)) + ' open' if left else 'contradict each other'}"
                )
            yield left.pop()
