"""What a training did, as it is written beside its result."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTrial:
    """A learning rate that was tried.

    Attributes:
        rate: The rate.
        loss: On validation text after the trial's steps, nats a token; None where it was not finite.
    """

    rate: float
    loss: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSearch:
    """How a learning rate was searched for.

    Attributes:
        rate: What was picked.
        reason: Why, in a sentence.
        start: Loss on validation text before any step, nats a token.
        trials: The rates that were tried, in their order.
        steps: Optimizer steps of each.
        seconds: Wall time of the search.
    """

    rate: float
    reason: str
    start: float | None
    trials: tuple[RateTrial, ...]
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationRecord:
    """A training as validation text saw it.

    Attributes:
        curve: (tokens trained on, loss in nats a token), the start first; measurements that were not finite are left
            out.
        sequences: Sequences of the text.
        kept_tokens: Tokens that the kept weights have been trained on; 0 where they are those of the start.
        worse: The end is worse than the start, or diverged.
        seconds: Wall time of the measurements, of this process's share.
    """

    curve: tuple[tuple[int, float], ...]
    sequences: int
    kept_tokens: int
    worse: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillRecord:
    """What distillation did.

    Attributes:
        curve: (tokens seen, mean loss in nats a token since the last point).
        tokens: Tokens trained on.
        seconds: Wall time of this process's share, measurements and the search for a rate included.
        validation: What validation text said; None where there was none.
        rate: How the learning rate was searched for; None where it was given.
    """

    curve: tuple[tuple[int, float], ...]
    tokens: int
    seconds: float
    validation: ValidationRecord | None = None
    rate: RateSearch | None = None


def joined(records: Sequence[DistillRecord]) -> DistillRecord:
    """Trainings one after the other as one.

    What was kept is the last one's; its rate is its own business, so none is named for several.
    """
    if len(records) == 1:
        return records[0]
    starts = [sum(record.tokens for record in records[:position]) for position in range(len(records))]
    watched = [(start, record.validation) for start, record in zip(starts, records, strict=True) if record.validation]
    validation = None
    if watched and records[-1].validation is not None:
        validation = ValidationRecord(
            curve=tuple(_shifted((start, found.curve) for start, found in watched)),
            sequences=records[-1].validation.sequences,
            kept_tokens=starts[-1] + records[-1].validation.kept_tokens,
            worse=any(found.worse for _, found in watched),
            seconds=sum(found.seconds for _, found in watched),
        )
    return DistillRecord(
        curve=tuple(_shifted((start, record.curve) for start, record in zip(starts, records, strict=True))),
        tokens=sum(record.tokens for record in records),
        seconds=sum(record.seconds for record in records),
        validation=validation,
    )


def finite(value: float) -> float | None:
    """A number, or None where it is not finite, which JSON has no word for."""
    return value if math.isfinite(value) else None


def _shifted(curves: Iterable[tuple[int, tuple[tuple[int, float], ...]]]) -> Iterable[tuple[int, float]]:
    for start, curve in curves:
        yield from ((start + at, loss) for at, loss in curve)
