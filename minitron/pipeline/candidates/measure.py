"""Measures candidates as a recipe says and sorts them, best first."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.distributed import Ranks
from minitron.importance.scores import Scores
from minitron.pipeline.candidates.bench import Bench, Measurement
from minitron.pipeline.candidates.in_turns import measure_in_turns
from minitron.pipeline.candidates.memory import require_memory
from minitron.pipeline.candidates.saved import SavedMeasurements
from minitron.pipeline.candidates.side_by_side import measure_side_by_side
from minitron.pipeline.candidates.text import read_text
from minitron.pipeline.candidates.tournament import play_tournament
from minitron.progress import track
from minitron.recipe.recipe import Recipe
from minitron.search.record import HeldOut
from minitron.search.solver import Candidate
from minitron.search.tournament import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A candidate and what was measured of it.

    Attributes:
        candidate: The candidate.
        zero_shot: Loss and KL right after pruning; None when not measured.
        repaired: The same after repair; None when not measured.
        standings: After each round of a tournament that it was in.
    """

    candidate: Candidate
    zero_shot: HeldOut | None = None
    repaired: HeldOut | None = None
    standings: tuple[Standing, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """What each process is given: it opens models and text by itself."""

    recipe: Recipe
    source: Path
    scores: Scores
    candidates: tuple[Candidate, ...]
    folder: Path

    def open_bench(self) -> Bench:
        source = open_checkpoint(self.source)
        return Bench(self.recipe, source, self.scores, read_text(self.recipe, source, self.folder))

    def begin(self) -> Callable[[int], Measurement]:
        bench = self.open_bench()
        return lambda index: bench.measure(self.candidates[index])


def measure_candidates(
    recipe: Recipe,
    source: Checkpoint,
    scores: Scores,
    candidates: Sequence[Candidate],
    folder: Path,
    ranks: Ranks | None = None,
) -> list[Measured]:
    """Measures candidates as the recipe's `search.choose` says and sorts them, best first.

    Args:
        recipe: The recipe.
        source: The checkpoint that is cut.
        scores: Its scores.
        candidates: What to measure.
        folder: Where every result and the trainer's states are saved; an interrupted call is resumed.
        ranks: Processes of a launch, which all return the same: each measures candidates with models of its own, on the
            recipe's device; a tournament's they train together. None for this one and those that it starts.

    Raises:
        MinitronError: Memory is short for so many processes, or a candidate cannot be measured.
    """
    ranks = ranks or Ranks.alone(recipe.device)
    folder.mkdir(parents=True, exist_ok=True)
    if ranks.is_main:
        read_text(recipe, source, folder)  # before several processes ask for it
    ranks.barrier()
    saved = SavedMeasurements(folder, ranks)
    task = _Task(recipe=recipe, source=source.folder, scores=scores, candidates=tuple(candidates), folder=folder)
    left = [index for index in range(len(candidates)) if index not in saved.measured]
    with closing(_measure(task, source, left, ranks)) as found:
        for index, measured in track(found, recipe.search.choose, total=len(left)):
            saved.add(index, measured)
    standings: Sequence[tuple[Standing, ...]] = [()] * len(candidates)
    if recipe.search.choose == "tournament":
        result = play_tournament(recipe, task.open_bench(), candidates, saved, folder, ranks)
        order, standings = result.order, result.standings
    else:
        order = tuple(sorted(range(len(candidates)), key=lambda index: _rank(saved.measured[index])))
    return [
        Measured(
            candidate=candidates[index],
            zero_shot=saved.measured[index].zero_shot,
            repaired=saved.measured[index].repaired,
            standings=standings[index],
        )
        for index in order
    ]


def _measure(task: _Task, source: Checkpoint, left: Sequence[int], ranks: Ranks) -> Generator[tuple[int, Measurement]]:
    processes = min(task.recipe.search.processes, len(left))
    if ranks.world_size > 1:
        yield from measure_in_turns(task.begin, left, ranks)
    elif processes > 1:
        require_memory(task.recipe, source, task.candidates, processes)
        yield from measure_side_by_side(task.begin, left, processes)
    elif left:
        measure = task.begin()
        yield from ((index, measure(index)) for index in left)


def _rank(measured: Measurement) -> float:
    return (measured.repaired or measured.zero_shot).kl
