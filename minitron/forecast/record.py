"""Records of a forecast, as in `forecast.json`."""

from dataclasses import dataclass

from minitron.forecast.jackknife import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSizes:
    """A cut in numbers.

    Attributes:
        num_hidden_layers: Blocks that stay.
        sizes: Axis -> size, of the axes whose size is below the source's.
        total_bytes: Of the memory model at the budget's workload, as a search counts them.
        weights_bytes: Of the weights alone.
        lost: Axis -> share of its importance that is lost; `layers` is the depth.
    """

    num_hidden_layers: int
    sizes: dict[str, int]
    total_bytes: int
    weights_bytes: int
    lost: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCut:
    """A cut that was measured.

    Attributes:
        cut: The cut.
        zero_shot: KL right after pruning, nats a token.
        kl: What the law is fitted to: KL after repair where the recipe repairs, else right after pruning.
    """

    cut: CutSizes
    zero_shot: float
    kl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCuts:
    """All measured cuts, as in `points.json`.

    Attributes:
        repaired: Whether KL is that after repair.
        points: The cuts, as they were designed.
    """

    repaired: bool
    points: tuple[MeasuredCut, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedCut:
    """A cut with its forecast.

    Attributes:
        cut: The cut.
        kl: KL to the teacher, nats a token; None where the cut is outside what was measured.
        outside: How it is outside; None where it is not.
    """

    cut: CutSizes
    kl: Interval | None
    outside: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisForecast:
    """What an axis costs alone.

    Attributes:
        axis: The axis; `layers` is the depth.
        scale: KL by the law where all of its importance is lost, nats a token.
        exponent: Power of the share that is lost.
        cuts: One for each size that the search tries, the largest first.
    """

    axis: str
    scale: float
    exponent: float
    cuts: tuple[PredictedCut, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryForecast:
    """What it takes to distill to a KL.

    Attributes:
        target_kl: The KL that is wanted, nats a token on validation text.
        low_tokens: Tokens at the favorable end of the interval; None where not even that is within reach.
        tokens: Tokens by the law; None where the wanted KL is not reached within `most_tokens`.
        high_tokens: Tokens at the other end; None where that is not within `most_tokens`.
        seen_tokens: Longest training that the law was fitted to.
        most_tokens: How far the law is followed.
        best_kl: KL by the law at `most_tokens`, with its interval.
        floor: KL by the law after endless training, nats a token: a parameter of the fit and no forecast.
        hours: Hours of `tokens` at the rate that was measured; None where `tokens` is.
        gpu_hours: Hours of all of the recipe's devices together by the estimate of a dry run; None without devices.
        tokens_per_s: The rate that was measured, validation and the search for a learning rate left out.
        outside: Why there is no forecast; None where there is one.
    """

    target_kl: float
    low_tokens: int | None
    tokens: int | None
    high_tokens: int | None
    seen_tokens: int
    most_tokens: int
    best_kl: Interval
    floor: float
    hours: float | None
    gpu_hours: float | None
    tokens_per_s: float
    outside: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastRecord:
    """A forecast of a recipe's cuts.

    Attributes:
        name: The recipe's name.
        repaired: Whether KL is that after repair; else right after pruning.
        confidence: Share of new shapes that are to be inside an interval.
        budget_bytes: Bytes that may be used.
        source_bytes: Bytes of what is cut.
        mixing: How axes add up: 1 where KL does, 1/2 where its root does.
        typical_error: Median factor, less 1, that the law without a point misses that point's KL by.
        largest_error: The largest such factor, less 1.
        axes: Each axis alone.
        front: Cuts of all axes with the least KL by the law, from few bytes to many.
        best: The one with the least KL within the recipe's limits; None where none is inside what was measured.
        measured: What the law was fitted to.
        asked: Shapes that were asked for.
        recovery: Tokens and hours to a KL, where one was asked for.
    """

    name: str
    repaired: bool
    confidence: float
    budget_bytes: int
    source_bytes: int
    mixing: float
    typical_error: float
    largest_error: float
    axes: tuple[AxisForecast, ...]
    front: tuple[PredictedCut, ...]
    best: PredictedCut | None
    measured: tuple[MeasuredCut, ...]
    asked: tuple[PredictedCut, ...] = ()
    recovery: RecoveryForecast | None = None
