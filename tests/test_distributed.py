"""Work that one process of a launch does for all, or each for itself: values and failures are the same everywhere."""

import json

import pytest

from minitron.distributed import Ranks
from tests import ranks_program
from tests.support.processes import run_ranks

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[str]]]:
    """Way -> (what was raised, message or value), of each process."""
    output = tmp_path_factory.mktemp("ranks")
    assert run_ranks(ranks_program.main, output, log=output) == [0, 0], (output / "rank-0.err").read_text()
    return [json.loads((output / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_what_the_first_process_gives_all_have(found: list[dict[str, list[str]]]) -> None:
    assert [each["on_main"] for each in found] == [["", "of 0"]] * 2


def test_what_each_process_gives_all_have_in_order(found: list[dict[str, list[str]]]) -> None:
    assert [each["each"] for each in found] == [["", "of 0,of 1"]] * 2


@pytest.mark.parametrize("way", ["on_main, fault", "each, fault"])
def test_a_fault_of_one_process_is_raised_in_all(found: list[dict[str, list[str]]], way: str) -> None:
    assert [each[way] for each in found] == [["DataError", "no text"]] * 2


@pytest.mark.parametrize(("way", "failed"), [("on_main, bug", 0), ("each, bug", 1)])
def test_a_bug_is_raised_where_it_is_and_the_others_are_told_where(
    found: list[dict[str, list[str]]], way: str, failed: int
) -> None:
    assert found[failed][way][0] == "ZeroDivisionError"
    kind, message = found[1 - failed][way]
    assert kind == "OtherProcessFailedError"
    assert message.startswith(f"process {failed} failed: ZeroDivisionError: ")
    assert "ranks_program.py" in message


def test_a_process_alone_does_its_work_and_raises_as_it_would() -> None:
    ranks = Ranks()
    assert ranks.on_main(lambda: 3) == 3
    assert ranks.each(lambda: 3) == [3]
    for way in (ranks.on_main, ranks.each):
        with pytest.raises(ZeroDivisionError):
            way(lambda: 1 // 0)
