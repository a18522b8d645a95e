"""Processes that hold sequences in parts train a student as one that holds them whole."""

import json
from pathlib import Path

import pytest
import torch

from minitron.distill.training.parts import PartSequences, computing_on
from minitron.distill.training.stage import TrainingRun, distill
from minitron.distributed import ContextGroup, Ranks
from minitron.errors import MinitronError
from minitron.runtime.context_parallel.part import part_of
from tests.distill.training import context_program
from tests.distill.training.context_program import SETTINGS, make_student, make_teacher, run, token_ids
from tests.support.processes import run_ranks


class Unread:
    """A teacher that is not in memory."""

    def targets(self, input_ids_BT: torch.Tensor, index_B: torch.Tensor) -> None:
        raise AssertionError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("parts")
    run("all", output, Ranks("cpu"), context_parallel=1)
    train(output, ("all", "all-fsdp2"), processes=2, context_parallel=2)
    return output


def train(output: Path, ways: tuple[str, ...], *, processes: int, context_parallel: int) -> None:
    codes = run_ranks(context_program.main, output, ways, context_parallel, world_size=processes, log=output)
    assert codes == [0] * processes, (output / "rank-0.err").read_text()


def assert_trained_alike(trained: Path, way: str, processes: int) -> None:
    """Losses agree to 1e-5 of themselves, weights to 1e-6 and to a thousandth of what training moved them by.

    Adam, which divides by gradients, makes more of rounding: 5e-5.
    """
    kind = way.partition("-")[0]
    names = f"{kind}-1", f"{way}-{processes}"
    expected, found = (json.loads((trained / f"{name}.json").read_text()) for name in names)
    assert len(expected["curve"]) == context_program.STEPS
    for point, alone in zip(found["curve"], expected["curve"], strict=True):
        assert point == pytest.approx(alone, rel=1e-5)
    assert found["validation"]["kept_tokens"] == expected["validation"]["kept_tokens"]
    for point, alone in zip(found["validation"]["curve"], expected["validation"]["curve"], strict=True):
        assert point == pytest.approx(alone, rel=1e-5)
    if kind == "watched":
        assert found["rate"]["rate"] == expected["rate"]["rate"]
    start = make_student().state_dict()
    alone, weights = (torch.load(trained / f"{name}.pt") for name in names)
    assert weights.keys() == alone.keys()
    for name, weight in alone.items():
        atol = 1e-6 if kind == "all" else 5e-5
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=atol, msg=name)
        assert (weights[name] - weight).double().norm() < 1e-3 * (weight - start[name]).double().norm(), name


@pytest.mark.processes
@pytest.mark.parametrize("way", ["all", "all-fsdp2"])
def test_two_processes_with_half_a_sequence_each_train_to_the_loss_and_weights_of_one(trained: Path, way: str) -> None:
    assert_trained_alike(trained, way, 2)


@pytest.mark.processes
def test_three_processes_with_a_third_each_do(trained: Path) -> None:
    train(trained, ("all",), processes=3, context_parallel=3)
    assert_trained_alike(trained, "all", 3)


@pytest.mark.slow
@pytest.mark.processes
def test_two_groups_of_two_do_in_copies_and_in_shards(trained: Path) -> None:
    train(trained, ("all", "all-fsdp2"), processes=4, context_parallel=2)
    for way in ("all", "all-fsdp2"):
        assert_trained_alike(trained, way, 4)


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_find_the_rate_and_the_best_state_that_one_does(trained: Path) -> None:
    run("watched", trained, Ranks("cpu"), context_parallel=1)
    train(trained, ("watched",), processes=2, context_parallel=2)
    assert_trained_alike(trained, "watched", 2)


def test_batches_that_are_dealt_in_turn_give_groups_their_sequences_and_each_process_its_part() -> None:
    sequences = [{"input_ids": torch.arange(5) + 10 * at, "index": torch.tensor(at)} for at in range(8)]
    for process in range(4):
        data_rank, rank = divmod(process, 2)
        group = ContextGroup(rank=rank, size=2, first=2 * data_rank, data_rank=data_rank, data_size=2, processes=None)
        parts = PartSequences(sequences, part_of(group, 5), micro_batch_size=2, num_sequences=8)  # type: ignore[arg-type]
        assert len(parts) == 16
        dealt = [parts[8 * turn + 2 * process + row] for turn in (0, 1) for row in (0, 1)]
        assert [int(sample["index"]) for sample in dealt] == [2 * data_rank + at for at in (0, 1, 4, 5)]
        own = slice(0, 3) if rank == 0 else slice(3, 5)
        assert all(torch.equal(one["input_ids"], sequences[one["index"]]["input_ids"][own]) for one in dealt)
        with pytest.raises(AssertionError, match="was dealt"):
            parts[8 * 1 + (2 * process + 2) % 8]


def test_processes_that_make_no_whole_groups_are_refused(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"context_parallel": 2})
    with pytest.raises(MinitronError, match="processes must be a multiple of context_parallel=2, got 1"):
        distill(
            make_student(), make_teacher(), token_ids(4, seed=0), settings, TrainingRun(state_folder=tmp_path, seed=0)
        )


def test_teachers_that_are_not_in_memory_are_refused() -> None:
    group = ContextGroup(rank=0, size=2, first=0, data_rank=0, data_size=1, processes=None)
    with (
        pytest.raises(MinitronError, match="takes an online teacher"),
        computing_on(part_of(group, 25), make_student(), Unread()),  # type: ignore[arg-type]
    ):
        pass
