"""A tournament's rounds: candidates distilled a little further, and measured."""

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training.stage import TrainingRun, distill
from minitron.distill.training.states import last_whole_state
from minitron.distill.training.validation import ValidationText
from minitron.distributed import Ranks
from minitron.errors import NotFiniteError
from minitron.pipeline.candidates.bench import Bench
from minitron.pipeline.candidates.saved import SavedMeasurements
from minitron.pipeline.training import objective_of, train_settings
from minitron.recipe.recipe import Recipe
from minitron.search.solver import Candidate
from minitron.search.tournament import Standing, TournamentResult, run_tournament

logger = logging.getLogger(__name__)


def play_tournament(
    recipe: Recipe,
    bench: Bench,
    candidates: Sequence[Candidate],
    saved: SavedMeasurements,
    folder: Path,
    ranks: Ranks | None = None,
) -> TournamentResult:
    """Plays the recipe's rounds, each candidate from what the last round left of it in `folder`.

    Students start as the run's own does: repaired where the recipe repairs. Several processes train each candidate
    together, with copies of it, as they will train the run's own.
    """
    rounds, ranks = recipe.search.tournament, ranks or Ranks.alone(recipe.device)

    def play(index: int, tokens: int) -> Standing:
        own = _candidate_folder(folder, index)
        student = begin_candidate(bench, candidates[index], own, ranks)
        standing = train_candidate(recipe, bench, student, own, tokens, ranks)
        saved.add_standing(index, tokens, standing)
        logger.info("candidate %d after %d tokens: KL %.4f", index, standing.tokens, standing.loss)
        return standing

    return run_tournament(
        len(candidates),
        play,
        tokens=rounds.tokens,
        keep=rounds.keep,
        known=saved.standings,
        left=lambda index: _forget(_candidate_folder(folder, index), ranks),
    )


def begin_candidate(bench: Bench, candidate: Candidate, folder: Path, ranks: Ranks | None = None) -> PreTrainedModel:
    """The student that a round trains on; one whose weights a state in `folder` holds is not repaired again."""

    def is_begun() -> bool:
        return last_whole_state(folder, sharded=False) is not None

    begun = (ranks or Ranks.alone()).on_main(is_begun)
    return bench.cut(bench.plan(candidate)) if begun else bench.start(candidate)


def train_candidate(
    recipe: Recipe, bench: Bench, student: PreTrainedModel, folder: Path, tokens: int, ranks: Ranks | None = None
) -> Standing:
    """A student after so many tokens in all of the last round's schedule, trained on from the state in `folder`."""
    section = recipe.distill.curriculum[0]  # hidden states and merging are left to the distillation itself
    # Copies of whole models, one pass, and nothing for the trackers of the distillation itself.
    alone = {"sharding": "ddp", "context_parallel": 1, "epochs": 1, "report_to": (), "keep": "last"}
    teacher = OnlineTeacher(bench.teacher)
    try:
        record = distill(
            student,
            teacher,
            bench.text.train_NT,
            train_settings(section, objective_of(section.loss)).model_copy(update=alone),
            TrainingRun(state_folder=folder, seed=recipe.seed, stop_after_tokens=tokens, ranks=ranks),
            ValidationText(sequences_NT=bench.text.held_out_NT, teacher=teacher),
        )
        return Standing(tokens=record.tokens, loss=bench.held_out(student, ranks).kl, curve=record.curve)
    except NotFiniteError as error:
        logger.warning("%s leaves the tournament: %s", folder.name, error)
        return Standing(tokens=tokens, loss=math.inf, curve=())


def _forget(folder: Path, ranks: Ranks) -> None:
    if ranks.is_main:
        shutil.rmtree(folder, ignore_errors=True)


def _candidate_folder(folder: Path, index: int) -> Path:
    return folder / f"candidate-{index}"
