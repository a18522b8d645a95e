"""Search for a learning rate from where a student starts: short trials up a ladder, measured on validation text."""

# B sequences of a global batch, T tokens

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from minitron.artifacts.json_files import read_record, write_json
from minitron.distill.training.record import RateSearch, RateTrial, finite
from minitron.distill.training.snapshots import Snapshots
from minitron.distill.training.trials import Trials
from minitron.distill.training.validation import Validation
from minitron.distributed import Ranks

logger = logging.getLogger(__name__)

RATE_FILE = "learning-rate.json"
# A geometric ladder around the published 1e-4 (2408.11796), from the cautious to the one that a small student stands.
LADDER = tuple(2.0**power * 1e-4 for power in range(-3, 7))
FIRST = 2e-4
# A rate is as good as the best one where its trial gained at least this share of what the best one's did.
AS_GOOD = 0.9


def walk(trial: Callable[[float], float], start: float, ladder: Sequence[float], first: float) -> list[RateTrial]:
    """Tries rates upwards from the first one until one is clearly behind, and downwards where that was the first.

    Args:
        trial: Loss on validation text after a trial at a rate; inf where it is not finite.
        start: Loss before any step.
        ladder: Rates, ascending.
        first: Where to begin, one of them.

    Returns:
        The trials, by ascending rate.
    """
    losses: dict[float, float] = {}
    begin = ladder.index(first)
    for rate in ladder[begin:]:
        losses[rate] = trial(rate)
        if start - losses[rate] < AS_GOOD * (start - min(losses.values())) or losses[rate] >= start:
            break
    lowest = begin
    while lowest > 0 and min(losses, key=lambda rate: (losses[rate], rate)) == ladder[lowest]:
        lowest -= 1
        losses[ladder[lowest]] = trial(ladder[lowest])
    return [RateTrial(rate=rate, loss=finite(losses[rate])) for rate in sorted(losses)]


def choose(start: float, trials: Sequence[RateTrial]) -> tuple[float, str]:
    """The rate that a search ends with, and why.

    The lowest of all where no trial gained anything; else the largest as good as the best.
    """
    losses = {one.rate: math.inf if one.loss is None else one.loss for one in trials}
    best = min(losses.values())
    if best >= start:
        return min(losses), "no rate gained anything in its trial, the lowest one is taken"
    good = [rate for rate, loss in losses.items() if start - loss >= AS_GOOD * (start - best)]
    return max(good), f"the largest rate whose trial gained at least {AS_GOOD:.0%} of what the best one's did"


def found_rate(folder: Path, ranks: Ranks) -> RateSearch | None:
    """The search of an earlier attempt, or None where it did not come to its end."""
    path = folder / RATE_FILE
    return ranks.broadcast(read_record(path, RateSearch) if ranks.is_main and path.is_file() else None)


def search_rate(
    trials: Trials, validation: Validation, snapshots: Snapshots, folder: Path, *, floor: float
) -> RateSearch:
    """Searches for a rate and saves what was found; weights and random numbers are as before afterwards.

    All processes must call it.

    Args:
        trials: What makes a trial.
        validation: What measures.
        snapshots: Where the start's weights lie meanwhile.
        folder: Where the result is saved, for an attempt that resumes.
        floor: Rate that the schedule ends at; none below it is tried.
    """
    started = time.monotonic()
    snapshots.save(0)
    start = validation.loss()

    def trial(rate: float) -> float:
        loss = math.inf
        if trials.run(rate):
            loss = validation.loss()
        snapshots.load(0)
        logger.info(
            "learning rate %g: %.4f on validation text after %d steps, %.4f before", rate, loss, trials.steps, start
        )
        return loss

    ladder = [rate for rate in LADDER if rate > floor] or [floor]
    found = walk(trial, start, ladder, FIRST if FIRST in ladder else ladder[0])
    rate, reason = choose(start, found)
    search = RateSearch(
        rate=rate,
        reason=reason,
        start=finite(start),
        trials=tuple(found),
        steps=trials.steps,
        seconds=time.monotonic() - started,
    )
    logger.info("learning rate %g is taken: %s", rate, reason)
    trials.ranks.barrier()
    if trials.ranks.is_main:
        write_json(folder / RATE_FILE, asdict(search))
    trials.ranks.barrier()
    return search
