"""YAML of strangers: plain values or a refusal, in bounded time."""

import time

import pytest

from minitron.artifacts.yaml_text import YamlFaultError, parse_yaml

FIRST = "a: &a [x, x, x, x, x, x, x, x, x]\n"
BOMB = FIRST + "".join(
    f"{after}: &{after} [{', '.join(9 * ['*' + before])}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "says", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", "the key 'a' stands twice", 3),
        ("a:\n  b: {c: 1, c: 1}\n", "the key 'c' stands twice", 2),
        (BOMB, "more than 100,000 values", None),
        ("a: &a [*a]\n", "nested deeper than 64 levels|recursive", None),
        ("[" * 100 + "]" * 100, "nested deeper than 64 levels", 1),
        ("[" * 100_000, "nested too deeply", None),
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor", 1),
        ("a: !!python/name:os.system\n", "could not determine a constructor", 1),
        ("a: !!python/object/new:pathlib.Path [x]\n", "could not determine a constructor", 1),
        ("a: 0x" + "f" * 17, "goes beyond 64 bits", 1),
        (f"a: {2**63}", "goes beyond 64 bits", 1),
        ("a: " + "9" * 5_000, "Exceeds the limit", None),
        ("a: 2020-99-99", "month must be", None),
        ("x" * (2**20 + 1), "at most 1,048,576 are read", None),
        ("a: \x00", "special characters", None),
        ("a: b: c", "mapping values are not allowed", 1),
    ],
)
def test_what_is_no_plain_yaml_is_refused_with_its_line(text: str, says: str, line: int | None) -> None:
    started = time.process_time()
    with pytest.raises(YamlFaultError, match=says) as caught:
        parse_yaml(text)
    assert time.process_time() - started < 5
    if line is not None:
        assert caught.value.line == line


def test_aliases_merges_and_whole_numbers_of_64_bits_are_read() -> None:
    text = f"a: &a {{b: {2**63 - 1}, c: -1}}\nd: {{<<: *a, c: 2}}\ne: [*a, *a]\n"
    found = parse_yaml(text)
    inner = {"b": 2**63 - 1, "c": -1}
    assert found == {"a": inner, "d": inner | {"c": 2}, "e": [inner, inner]}
