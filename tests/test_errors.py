"""What a message may be, whatever it quotes."""

import pickle

import pytest

from minitron.checkpoints.pickled import CONVERSION
from minitron.errors import CheckpointError, MinitronError, RecipeError


def test_a_long_message_keeps_its_rule_and_its_remedy() -> None:
    message = str(MinitronError(f"sizes must be small, got {'9' * 100_000}; nearest: 8"))
    assert len(message) == 500
    assert message.startswith("sizes must be small, got 999")
    assert message.endswith("99; nearest: 8")
    assert " [...] " in message


def test_each_fault_is_a_line_and_there_are_at_most_fifty() -> None:
    error = RecipeError(*(f"fault {number}" for number in range(70)))
    lines = str(error).splitlines()
    assert lines[:2] == ["fault 0", "fault 1"]
    assert len(lines) == 50
    assert lines[-1] == "and 21 more faults"
    assert str(RecipeError(*(f"fault {number}" for number in range(50)))).splitlines()[-1] == "fault 49"


@pytest.mark.parametrize("quoted", ["a\nb", "a\r\nb", "a\x1b[2J", "a\u2028b", "a\u202eb", "a\x00b", "\ud800"])
def test_what_is_quoted_cannot_break_the_line_or_steer_a_terminal(quoted: str) -> None:
    message = str(CheckpointError(f"a tensor must be declared, got {quoted}"))
    assert message.isprintable()
    assert message.startswith("a tensor must be declared, got ")
    message.encode("utf-8")


def test_a_command_that_mends_is_told_whole() -> None:
    error = CheckpointError("x" * 600 + "; it is converted by: ", command=CONVERSION)
    assert str(error).endswith(f"it is converted by: {CONVERSION}")


def test_an_error_comes_back_from_another_process_as_it_was() -> None:
    for error in (CheckpointError("one", "two\nlines", command=" run this"), MinitronError(*map(str, range(80)))):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.command) == (type(error), str(error), error.command)
