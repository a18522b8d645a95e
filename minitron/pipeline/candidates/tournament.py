"""A tournament's rounds: candidates distilled a little further, and measured."""

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training.stage import TrainingRun, distill
from minitron.errors import NotFiniteError
from minitron.pipeline.candidates.bench import Bench
from minitron.pipeline.candidates.saved import SavedMeasurements
from minitron.pipeline.training import objective_of, train_settings
from minitron.recipe.recipe import Recipe
from minitron.search.solver import Candidate
from minitron.search.tournament import Standing, TournamentResult, run_tournament

logger = logging.getLogger(__name__)


def play_tournament(
    recipe: Recipe, bench: Bench, candidates: Sequence[Candidate], saved: SavedMeasurements, folder: Path
) -> TournamentResult:
    """Plays the recipe's rounds, each candidate from what the last round left of it in `folder`.

    Students start as the run's own does: repaired where the recipe repairs.
    """
    rounds = recipe.search.tournament

    def play(index: int, tokens: int) -> Standing:
        standing = train_candidate(recipe, bench, candidates[index], _candidate_folder(folder, index), tokens)
        saved.add_standing(index, tokens, standing)
        logger.info("candidate %d after %d tokens: KL %.4f", index, standing.tokens, standing.loss)
        return standing

    return run_tournament(
        len(candidates),
        play,
        tokens=rounds.tokens,
        keep=rounds.keep,
        known=saved.standings,
        left=lambda index: shutil.rmtree(_candidate_folder(folder, index), ignore_errors=True),
    )


def train_candidate(recipe: Recipe, bench: Bench, candidate: Candidate, folder: Path, tokens: int) -> Standing:
    """A candidate after so many tokens in all of the last round's schedule, trained on from the state in `folder`."""
    section = recipe.distill.curriculum[0]  # hidden states and merging are left to the distillation itself
    # One process, one pass, and nothing for the trackers of the distillation itself.
    alone = {"sharding": "ddp", "epochs": 1, "report_to": ()}
    student = bench.start(candidate)
    try:
        record = distill(
            student,
            OnlineTeacher(bench.teacher),
            bench.text.train_NT,
            train_settings(section, objective_of(section.loss)).model_copy(update=alone),
            TrainingRun(state_folder=folder, seed=recipe.seed, stop_after_tokens=tokens),
        )
        return Standing(tokens=record.tokens, loss=bench.held_out(student).kl, curve=record.curve)
    except NotFiniteError as error:
        logger.warning("%s leaves the tournament: %s", folder.name, error)
        return Standing(tokens=tokens, loss=math.inf, curve=())


def _candidate_folder(folder: Path, index: int) -> Path:
    return folder / f"candidate-{index}"
