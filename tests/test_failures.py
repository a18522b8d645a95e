"""One process of a launch fails while the other waits for it: both raise why, and neither hangs."""

import json
from pathlib import Path

import pytest

from tests import ranks_program
from tests.support.processes import run_ranks

pytestmark = pytest.mark.processes


def outcomes(output: Path, failing: int, kind: str) -> list[list[str]]:
    codes = run_ranks(ranks_program.fail_amid_a_collective, output, failing, kind, log=output, timeout_s=120)
    assert codes == [0, 0], (output / "rank-0.err").read_text()
    return [json.loads((output / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_fault_is_raised_by_the_process_that_waits_too(tmp_path: Path, failing: int) -> None:
    found = outcomes(tmp_path, failing, "fault")
    assert found[failing] == ["DataError", "no text"]
    assert found[1 - failing] == ["MinitronError", "no text"]


def test_of_a_bug_the_process_that_waits_says_where_it_was(tmp_path: Path) -> None:
    found = outcomes(tmp_path, 1, "bug")
    assert found[1][0] == "ZeroDivisionError"
    kind, message = found[0]
    assert kind == "OtherProcessFailedError"
    assert message.startswith("process 1 failed: ZeroDivisionError: ")
    assert "ranks_program.py" in message


def test_those_that_were_told_of_a_bug_do_not_say_it_for_the_one_that_has_it(tmp_path: Path) -> None:
    codes = run_ranks(ranks_program.fail_in_work_of_the_first_alone, tmp_path, log=tmp_path, timeout_s=120)
    assert codes == [0, 0], (tmp_path / "rank-0.err").read_text()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == ["ZeroDivisionError", "integer division or modulo by zero"]
    assert second[0] == "OtherProcessFailedError"
    assert second[1].startswith("process 0 failed: ZeroDivisionError: ")
