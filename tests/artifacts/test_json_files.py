"""JSON that decides something: one value for one text, bounded, or a refusal."""

from pathlib import Path

import pytest

from minitron.artifacts.json_files import JsonFaultError, parse_json, read_json
from minitron.errors import ArtifactError


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "a": 2}', "has the key 'a' twice"),
        ('[{"b": {"c": 1, "d": 2, "c": 1}}]', "has the key 'c' twice"),
        ("[" * 100 + "]" * 100, "nested deeper than 64 levels"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested deeper than 64 levels"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5_000, "Exceeds the limit"),
        ('"\\ud83d"', "half of a surrogate pair"),
        (b"\xff", "is not UTF-8"),
        ("{'a': 1}", "is not JSON"),
    ],
)
def test_json_that_readers_may_take_for_different_values_is_refused(text: str | bytes, says: str) -> None:
    with pytest.raises(JsonFaultError, match=says):
        parse_json(text)


def test_what_configurations_hold_is_read() -> None:
    text = '{"limit": [0.0, Infinity], "length": 1000000000000000019884624838656, "emoji": "\\ud83d\\ude00"}'
    assert parse_json(text) == {
        "limit": [0.0, float("inf")],
        "length": 1000000000000000019884624838656,
        "emoji": "\U0001f600",
    }
    assert parse_json("[" * 64 + "]" * 64) is not None


def test_a_file_is_named_with_its_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1, "a": 2}')
    with pytest.raises(ArtifactError, match=r"a\.json must be JSON, it has the key 'a' twice"):
        read_json(path)
