"""Teacher's shape + scores -> candidates within the limits, the chosen one first."""

import itertools
import math
import shutil
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from minitron.artifacts.json_files import write_json
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.throughput import predict_tokens_per_second
from minitron.importance.retained import retained_shares
from minitron.importance.scores import Scores, load_scores
from minitron.models.shape import HybridShape
from minitron.pipeline.candidates import Measured, measure_candidates
from minitron.pipeline.run_folder import CANDIDATES_FILE, SCORES_FILE, STATE_FOLDER, Folders, cut_source
from minitron.pipeline.stages.depth import kept_blocks
from minitron.pipeline.text import data_hashes
from minitron.recipe.recipe import Recipe
from minitron.recipe.space import search_space
from minitron.report.candidates_figure import draw_candidates
from minitron.search.pareto import pareto_front
from minitron.search.solver import SearchResult, Shares, solve_budget
from minitron.search.space import SearchSpace

RANK_BY = {"largest": "memory", "importance": "importance", "throughput": "throughput"}


def search_settings(recipe: Recipe) -> dict[str, Any]:
    """Everything in the recipe that candidates depend on, beside the scores."""
    measured = recipe.search.choose not in RANK_BY
    unused = {"top_k"} if measured else {"shortlist", "tournament"}
    settings: dict[str, Any] = {
        "budget": recipe.budget.model_dump(),
        "search": recipe.search.model_dump(exclude=unused),
    }
    if measured:
        settings |= {
            "distill": recipe.distill.model_dump(exclude={"data", "tokens", "save_steps"}),
            "data": data_hashes(recipe.distill.data),
        }
    return settings


def run_search(recipe: Recipe, folders: Folders, output: Path) -> None:
    """Teacher's shape + scores -> candidates within the limits."""
    checkpoint = open_checkpoint(cut_source(recipe, folders))
    source = checkpoint.shape
    scores = load_scores(folders["score"] / SCORES_FILE)
    section = recipe.search
    space = search_space(section, source, lambda kept: kept_blocks(recipe, source, scores.depth, kept))
    shares = _cached_shares(scores, source)
    if section.choose in RANK_BY:
        result = _solve(recipe, space, shares, rank_by=RANK_BY[section.choose], top_k=section.top_k)
        measured = [Measured(candidate=candidate) for candidate in result.candidates]
    else:
        result = shortlist(recipe, space, shares)
        measured = measure_candidates(recipe, checkpoint, scores, result.candidates, output / STATE_FOLDER)
    found = describe(recipe, source, result, measured)
    found["candidates"] = mark_front(found["candidates"])
    write_json(output / CANDIDATES_FILE, found)
    draw_candidates(found, output / "candidates.png")
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


def describe(recipe: Recipe, source: HybridShape, result: SearchResult, measured: list[Measured]) -> dict[str, Any]:
    """What `candidates.json` holds; the candidates' `layers` are indices of the source's blocks."""
    workload, limits = recipe.budget.workload, recipe.budget.limits
    teacher = open_checkpoint(Path(recipe.teacher)).shape

    def whole(shape: HybridShape) -> dict[str, Any]:
        speed = None
        if limits.device is not None:
            speed = predict_tokens_per_second(shape, workload, limits.device, limits.lengths, limits.budget_bytes)
        return {"params": shape.params, "memory": asdict(memory_bytes(shape, workload)), "tokens_per_s": speed}

    return {
        "chosen_by": recipe.search.choose,
        "budget_bytes": limits.budget_bytes,
        "device": None if limits.device is None else limits.device.name,
        "num_shapes": result.num_shapes,
        "num_feasible": result.num_feasible,
        "teacher": whole(teacher),
        "source": whole(source),
        "candidates": [
            {
                "layers": found.candidate.layers,
                "shape": asdict(found.candidate.shape),
                "params": found.candidate.shape.params,
                "memory": asdict(found.candidate.memory),
                "tokens_per_s": found.candidate.tokens_per_s,
                "retained": found.candidate.retained,
                "zero_shot": found.zero_shot,
                "rounds": [{"tokens": each.tokens, "kl": _finite(each.loss)} for each in found.standings],
                "curve": found.standings[-1].curve if found.standings else [],
            }
            for found in measured
        ],
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def mark_front(candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The candidates, each with `on_front`: whether no other is smaller, better and (where predicted) faster."""
    costs = []
    for candidate in candidates:
        measured = next(iter(candidate["rounds"]), candidate["zero_shot"])  # the first round is the last that all had
        loss = -candidate["retained"] if measured is None else measured["kl"]
        loss = math.inf if loss is None else loss
        costs.append([candidate["memory"]["total_bytes"], loss, -(candidate["tokens_per_s"] or 0)])
    return [
        {**candidate, "on_front": on_front} for candidate, on_front in zip(candidates, pareto_front(costs), strict=True)
    ]


def _solve(recipe: Recipe, space: SearchSpace, shares: Shares, *, rank_by: str, top_k: int) -> SearchResult:
    return solve_budget(
        space, recipe.budget.workload, recipe.budget.limits, top_k=top_k, rank_by=rank_by, shares=shares
    )


def _cached_shares(scores: Scores, source: HybridShape) -> Shares:
    return cache(lambda layers: retained_shares(scores, source, layers))
