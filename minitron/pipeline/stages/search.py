"""Stage `search`: the shape that is cut + scores -> candidates within the limits, the chosen one first."""

import itertools
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from minitron.artifacts.header import STATE_FOLDER
from minitron.artifacts.json_files import write_json
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.throughput import predict_tokens_per_second
from minitron.importance.scores import Scores, load_scores
from minitron.models.shape import HybridShape
from minitron.pipeline.candidates.measure import Measured, measure_candidates
from minitron.pipeline.candidates.space import scored_space
from minitron.pipeline.context import StageContext
from minitron.pipeline.fingerprints import RANK_BY
from minitron.pipeline.run_folder import CANDIDATES_FILE
from minitron.pipeline.sections import cut_source, search_limits
from minitron.recipe.recipe import Recipe
from minitron.report.candidates_figure import draw_candidates
from minitron.search.record import CandidateRecord, ModelEstimate, Round, SearchRecord, mark_front
from minitron.search.solver import SearchResult, Shares, solve_budget
from minitron.search.space import SearchSpace

PICTURE_FILE = "candidates.png"


def run(context: StageContext) -> None:
    """Finds the candidates, measures them where the recipe says so, and writes them, best first.

    Several processes share the measuring; the first one finds and writes.
    """
    recipe, ranks = context.recipe.on_device(context.device), context.ranks
    checkpoint, scores = open_checkpoint(cut_source(recipe, context.run)), load_scores(context.run.scores)
    result = ranks.on_main(partial(_find, recipe, checkpoint.shape, scores))
    if recipe.search.choose in RANK_BY:
        measured = [Measured(candidate=candidate) for candidate in result.candidates]
    else:
        state = context.output / STATE_FOLDER
        measured = measure_candidates(recipe, checkpoint, scores, result.candidates, state, ranks)
    record = describe(recipe, checkpoint.shape, result, measured)
    ranks.on_main(partial(_write, record, context.output))


def _find(recipe: Recipe, source: HybridShape, scores: Scores) -> SearchResult:
    """The candidates; those that are to be measured where the recipe measures any."""
    space, shares = scored_space(recipe, source, scores)
    choose = recipe.search.choose
    if choose in RANK_BY:
        return _solve(recipe, space, shares, rank_by=RANK_BY[choose], top_k=recipe.search.top_k)
    return shortlist(recipe, space, shares)


def _write(record: SearchRecord, output: Path) -> None:
    write_json(output / CANDIDATES_FILE, asdict(record))
    draw_candidates(record, output / PICTURE_FILE)
    shutil.rmtree(output / STATE_FOLDER, ignore_errors=True)


def shortlist(recipe: Recipe, space: SearchSpace, shares: Shares) -> SearchResult:
    """Candidates to be measured: the largest and those that keep most importance, in turn, each once."""
    size = recipe.search.shortlist
    largest = _solve(recipe, space, shares, rank_by="memory", top_k=size)
    keeping = _solve(recipe, space, shares, rank_by="importance", top_k=size)
    turns = itertools.chain.from_iterable(zip(largest.candidates, keeping.candidates, strict=True))
    each_once = {(candidate.layers, candidate.shape): candidate for candidate in turns}
    return SearchResult(
        candidates=tuple(each_once.values())[:size], num_shapes=largest.num_shapes, num_feasible=largest.num_feasible
    )


def describe(recipe: Recipe, source: HybridShape, result: SearchResult, measured: Sequence[Measured]) -> SearchRecord:
    """What `candidates.json` holds; the candidates' `layers` are indices of the source's blocks."""
    workload, limits = recipe.budget.workload, recipe.budget.limits

    def estimate(shape: HybridShape) -> ModelEstimate:
        speed = None
        if limits.device is not None:
            speed = predict_tokens_per_second(shape, workload, limits.device, limits.lengths, limits.budget_bytes)
        return ModelEstimate(params=shape.params, memory=memory_bytes(shape, workload), tokens_per_s=speed)

    return SearchRecord(
        chosen_by=recipe.search.choose,
        budget_bytes=limits.budget_bytes,
        device=None if limits.device is None else limits.device.name,
        num_shapes=result.num_shapes,
        num_feasible=result.num_feasible,
        teacher=estimate(open_checkpoint(Path(recipe.teacher)).shape),
        source=estimate(source),
        candidates=mark_front([_candidate(found) for found in measured]),
    )


def _candidate(found: Measured) -> CandidateRecord:
    candidate, standings = found.candidate, found.standings
    kls = (each.loss if math.isfinite(each.loss) else None for each in standings)
    rounds = tuple(Round(tokens=each.tokens, kl=kl) for each, kl in zip(standings, kls, strict=True))
    return CandidateRecord(
        layers=candidate.layers,
        shape=candidate.shape,
        params=candidate.shape.params,
        memory=candidate.memory,
        tokens_per_s=candidate.tokens_per_s,
        retained=candidate.retained,
        zero_shot=found.zero_shot,
        repaired=found.repaired,
        rounds=rounds,
        curve=standings[-1].curve if standings else (),
    )


def _solve(recipe: Recipe, space: SearchSpace, shares: Shares, *, rank_by: str, top_k: int) -> SearchResult:
    return solve_budget(
        space, recipe.budget.workload, search_limits(recipe), top_k=top_k, rank_by=rank_by, shares=shares
    )
