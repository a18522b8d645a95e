"""Seeded mutations: of bytes, of JSON values and of text, from plain damage to what somebody thought about."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

# What a value is put in the place of another: other types, numbers beyond every width, text that breaks a line.
HOSTILE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    7,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    " ",
    "a",
    "M",
    "../../../etc/passwd",
    "/etc/passwd",
    "a\x00b",
    "a\nb\r\u2028c\x1b[31m",
    "\u202e\ufeff\U0001f40d",
    "x" * 5_000,
    "\u00e9" * 70_000,
    [],
    [[]],
    [None],
    [1, 2, 3],
    [-1],
    ["a", 1, None, {}],
    [[1, 2], [3]],
    [0] * 3_000,
    {},
    {"a": {}},
    {"": None},
    {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]},
    {str(number): number for number in range(500)},
)
WHOLE = 0.06  # share of inputs that are left as they were: a reader that refuses those was given nothing it knows
DEPTHS = (10, 100, 1_000, 20_000)
NUMBERS = (b"9" * 400, b"9" * 5_000, b"-1", b"1e999", b"NaN", b"-Infinity", b"0.1", b"1" + b"0" * 18)


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """A file with one to four damages, and now and then the file as it was."""
    if rng.random() < WHOLE:
        return content
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        found = bytearray(rng.choice(_BYTES)(found, rng))
    return bytes(found)


def mutated_value(value: Any, rng: random.Random) -> Any:
    """A JSON value of which one to three places are others, and now and then the value as it was."""
    if rng.random() < WHOLE:
        return value
    found = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(found))
        if not places:
            return rng.choice(HOSTILE)
        holder, key = rng.choice(places)
        rng.choice(_PLACES)(holder, key, rng)
    return found if rng.random() > 0.01 else rng.choice(HOSTILE)


def hostile_json(value: Any, rng: random.Random) -> bytes:
    """JSON of a mutated value, sometimes with what no value holds: a key twice, depth, digits, half a pair."""
    changed = mutated_value(value, rng)
    text = json.dumps(changed, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.3:
        text = rng.choice(_TEXTS)(text, rng)
    return text if rng.random() < 0.8 else mutated_bytes(text, rng)


def deep(rng: random.Random) -> bytes:
    """Lists or objects inside each other, closed or not."""
    depth = rng.choice(DEPTHS)
    begins, ends = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return begins * depth + b"1" + ends * rng.choice((depth, 0))


def _flip(content: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 3, 20))):
        if content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def _put(content: bytearray, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    noise = rng.choice((b"\x00" * 9, b"\xff" * 8, rng.randbytes(16), b"\xed\xa0\x80", b"\n", b'"', b"{", b"]"))
    return bytes(content[:at]) + noise + bytes(content[at + rng.choice((0, len(noise))) :])


def _cut(content: bytearray, rng: random.Random) -> bytes:
    return bytes(content[: rng.randrange(len(content) + 1)])


def _drop(content: bytearray, rng: random.Random) -> bytes:
    first = rng.randrange(len(content) + 1)
    return bytes(content[:first] + content[first + rng.choice((1, 8, 100)) :])


def _repeat(content: bytearray, rng: random.Random) -> bytes:
    first = rng.randrange(len(content) + 1)
    return bytes(content[:first] + content[max(0, first - 40) : first] * rng.choice((1, 2, 50)) + content[first:])


def _length(content: bytearray, rng: random.Random) -> bytes:
    """Another number where many formats have a length: the first or the last bytes."""
    number = rng.choice((0, 1, 7, 2**31, 2**40, 2**60, 2**63, 2**64 - 1, len(content), max(0, len(content) - 8)))
    at = rng.choice((0, 8, 16, max(0, len(content) - 8), rng.randrange(len(content) + 1)))
    return bytes(content[:at]) + number.to_bytes(8, "little") + bytes(content[at + 8 :])


_BYTES: tuple[Callable[[bytearray, random.Random], bytes], ...] = (_flip, _flip, _put, _cut, _drop, _repeat, _length)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys)[:200]:
        yield value, key
        yield from _places(value[key])


def _replace(holder: Any, key: Any, rng: random.Random) -> None:
    holder[key] = copy.deepcopy(rng.choice(HOSTILE))


def _remove(holder: Any, key: Any, rng: random.Random) -> None:
    del holder[key]


def _wrap(holder: Any, key: Any, rng: random.Random) -> None:
    value = holder[key]
    holder[key] = rng.choice(([value], {"a": value}, str(value), [value, value]))


def _rename(holder: Any, key: Any, rng: random.Random) -> None:
    if isinstance(holder, dict):
        holder[rng.choice(("", "a", "../x", "x" * 3_000, f"{key} ", "a\nb"))] = holder.pop(key)
    else:
        holder.append(holder[key])


def _scale(holder: Any, key: Any, rng: random.Random) -> None:
    value = holder[key]
    if isinstance(value, int | float):
        holder[key] = rng.choice((-value, value + 1, value - 1, value * 2**20, value * 2**70, value // 3))
    elif isinstance(value, str) and len(value) < 200:
        holder[key] = rng.choice((value * 2, value * 900, value[:-1], value.upper(), value + "\x00", value + "\ud800"))
    elif isinstance(value, list) and len(value) < 200:
        holder[key] = rng.choice((value * 2, value[:-1], value[::-1], value * 100))


_PLACES: tuple[Callable[[Any, Any, random.Random], None], ...] = (
    _replace,
    _replace,
    _replace,
    _remove,
    _wrap,
    _rename,
    _scale,
    _scale,
)


def _twice(text: bytes, rng: random.Random) -> bytes:
    colon = text.find(b":", rng.randrange(len(text) + 1))
    start, comma = text.rfind(b'"', 0, max(0, text.rfind(b'"', 0, colon))), text.find(b",", colon)
    return text if min(colon, start, comma) < 0 else text[: comma + 1] + text[start:comma] + b"," + text[comma + 1 :]


def _deepen(text: bytes, rng: random.Random) -> bytes:
    colon = text.find(b":", rng.randrange(len(text) + 1))
    comma = text.find(b",", colon)
    return deep(rng) if min(colon, comma) < 0 else text[: colon + 1] + deep(rng) + text[comma:]


def _digits(text: bytes, rng: random.Random) -> bytes:
    colon = text.find(b":", rng.randrange(len(text) + 1))
    comma = text.find(b",", colon)
    return text if min(colon, comma) < 0 else text[: colon + 1] + rng.choice(NUMBERS) + text[comma:]


def _half_pair(text: bytes, rng: random.Random) -> bytes:
    quote = text.find(b'"', rng.randrange(len(text) + 1))
    return text if quote < 0 else text[: quote + 1] + b"\\ud83d" + text[quote + 1 :]


_TEXTS: tuple[Callable[[bytes, random.Random], bytes], ...] = (_twice, _deepen, _digits, _half_pair)
