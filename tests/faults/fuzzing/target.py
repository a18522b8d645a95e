"""What is fuzzed: a file of a stranger's, how hostile forms of it are made, and who reads it."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.fuzzing.mutations import hostile_json, mutated_bytes, mutated_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One reader and the file that it is given.

    Attributes:
        name: What the report calls it.
        path: The file that is made hostile.
        make: Gives the hostile content.
        read: Reads it.
        clean: Puts back what a reader may remove.
        share: Of the inputs that others are given: less for a slow reader.
    """

    name: str
    path: Path
    make: Callable[[random.Random], bytes]
    read: Callable[[], object]
    clean: Callable[[], None] = lambda: None
    share: float = 1.0

    def write(self, number: int) -> bytes:
        """Writes the input of a number, which is the same whenever it is asked for."""
        content = self.make(random.Random(f"{self.name}:{number}"))
        self.path.write_bytes(content)
        return content


def from_bytes(*bases: bytes) -> Callable[[random.Random], bytes]:
    """Damaged forms of files."""
    return lambda rng: mutated_bytes(rng.choice(bases), rng)


def from_json(*bases: Any) -> Callable[[random.Random], bytes]:
    """Hostile forms of JSON values."""
    return lambda rng: hostile_json(rng.choice(bases), rng)


def from_lines(line: Any, lines: int = 5) -> Callable[[random.Random], bytes]:
    """JSON lines of which some are hostile."""

    def make(rng: random.Random) -> bytes:
        whole = json.dumps(line).encode()
        made = [hostile_json(line, rng) if rng.random() < 0.5 else whole for _ in range(lines)]
        return b"\n".join(made)

    return make


def from_safetensors(content: bytes, *, inner: str | None = None) -> Callable[[random.Random], bytes]:
    """Hostile forms of a safetensors file: of its header, of JSON inside its metadata, or of its bytes.

    Args:
        content: The file.
        inner: Key of the metadata that holds JSON; none where None.
    """
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]

    def make(rng: random.Random) -> bytes:
        draw = rng.random()
        if draw < 0.25:
            return mutated_bytes(content, rng)
        if inner is not None and draw < 0.65:
            metadata = header["__metadata__"]
            hostile = hostile_json(json.loads(metadata[inner]), rng).decode("utf-8", "replace")
            text = json.dumps(header | {"__metadata__": metadata | {inner: hostile}}).encode()
        elif draw < 0.9:
            text = json.dumps(mutated_value(header, rng)).encode()
        else:
            text = hostile_json(header, rng)
        claimed = len(text) if rng.random() < 0.95 else rng.choice((0, 2**60, 2**64 - 1, len(text) + 1))
        return claimed.to_bytes(8, "little") + text + data

    return make
