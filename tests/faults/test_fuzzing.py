"""A part of `make fuzz` in every test run, and that it finds what it is there for."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minitron.artifacts.json_files import JsonFaultError, parse_json
from minitron.artifacts.yaml_text import YamlFaultError, parse_yaml
from minitron.errors import MinitronError
from minitron.models.config import shape_from_config
from tests.faults.fuzzing.outcome import bounded_memory, outcome_of
from tests.faults.fuzzing.targets import all_targets, outcomes
from tests.support.models import config_json, make_config, make_tiny_shape

INPUTS = 60  # a reader; `make fuzz` gives 1,300


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(before)


def test_every_reader_reads_a_hostile_file_or_refuses_it_in_short_lines(tmp_path: Path) -> None:
    faults: dict[str, str] = {}
    read_by: dict[str, int] = {}
    with bounded_memory():
        for target in all_targets(tmp_path):
            found = dict(outcomes(target, range(max(4, round(INPUTS * target.share)))))
            faults |= {f"{target.name} {number}": one.fault for number, one in found.items() if one.fault}
            read_by[target.name] = sum(one.kind == "read" for one in found.values())
    assert faults == {}
    assert len(read_by) > 40
    # A reader that refuses all of them was given nothing that it knows.
    refusing = {name for name, count in read_by.items() if count == 0}
    assert refusing == set()


def test_an_input_is_the_same_whenever_it_is_asked_for(tmp_path: Path) -> None:
    first, again = ({one.name: one for one in all_targets(tmp_path / name)} for name in ("a", "b"))
    for name in ("config.json", "pruning plan", "recipe", "csv"):
        assert [first[name].write(number) for number in range(5)] == [again[name].write(number) for number in range(5)]


class OpenError(MinitronError):
    """An error whose message nobody bounds."""

    def __init__(self, message: str) -> None:
        ValueError.__init__(self, message)
        self.command = ""


def raises(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (MinitronError("a rule"), ""),
        (MinitronError("x" * 10_000), ""),
        (OpenError("x" * 501), "a line of 501 characters"),
        (OpenError("a\n" * 60), "a message of 61 lines"),
        (OpenError("a\x1b[31m"), "a line that cannot be printed"),
        (OpenError(" "), "an empty message"),
        (KeyError("a"), "KeyError at"),
        (RecursionError("a"), "RecursionError at"),
        (MemoryError(), "MemoryError at"),
        (BaseException("of Rust"), "BaseException at"),
    ],
)
def test_what_is_no_clean_error_is_a_fault(error: BaseException, fault: str) -> None:
    found = outcome_of(lambda: raises(error)).fault
    assert found.startswith(fault)
    assert bool(found) == bool(fault)


def test_what_never_ends_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.fuzzing.outcome.LIMIT_S", 0.2)

    def spin() -> None:
        while True:
            pass

    assert "of CPU time" in outcome_of(spin).fault
    monkeypatch.setattr("tests.faults.fuzzing.outcome.WAIT_S", 0.2)
    assert "waits" in outcome_of(lambda: time.sleep(30)).fault


def test_what_asks_for_more_memory_than_it_may_is_a_fault() -> None:
    with bounded_memory(2**28):
        assert outcome_of(lambda: bytes(2**30)).kind == "MemoryError"
    assert outcome_of(lambda: bytes(2**30)).kind == "read"


def _parsed(parse: Callable[[str], object], refusal: type[ValueError], text: str) -> object:
    try:
        return parse(text)
    except refusal as error:
        raise MinitronError(str(error)) from error


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
CONFIG = config_json(make_config(make_tiny_shape()))
BLOCKS = ["mamba", "mlp", "attention", "mamba", "mamba", "mlp", "attention", "mlp"]


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(key=st.sampled_from(sorted(CONFIG)), value=JSON)
def test_any_value_of_any_key_of_a_configuration_is_read_or_refused(key: str, value: object) -> None:
    outcome = outcome_of(lambda: shape_from_config(CONFIG | {key: value}))
    assert outcome.fault == ""


@settings(max_examples=60)
@given(value=JSON)
def test_any_list_of_blocks_is_read_or_refused(value: object) -> None:
    config = {key: each for key, each in CONFIG.items() if key != "hybrid_override_pattern"}
    outcome = outcome_of(lambda: shape_from_config(config | {"layers_block_type": value}))
    assert outcome.fault == ""
    assert outcome.kind == "ShapeError"
    assert shape_from_config(config | {"layers_block_type": BLOCKS}).hybrid_override_pattern == "M-*MM-*-"


@settings(max_examples=100)
@given(value=JSON)
def test_json_and_yaml_give_what_was_written_or_say_why_not(value: object) -> None:
    text = json.dumps(value)
    for parse, refusal in ((parse_json, JsonFaultError), (parse_yaml, YamlFaultError)):
        outcome = outcome_of(partial(_parsed, parse, refusal, text))
        assert outcome.fault == ""
