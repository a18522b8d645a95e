"""What one wave of requests took, and what several waves say of a model: medians with their spread. Loads no torch."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from minitron.errors import MinitronError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """One wave: requests that were sent at the same moment.

    Attributes:
        first_s: Seconds from sending to the first token of each request.
        last_s: Seconds from sending to its last token.
        output_tokens: Tokens generated for all requests together.
        peak_bytes: Largest memory of the engine so far, without what it held before the model; None where not counted.
    """

    first_s: tuple[float, ...]
    last_s: tuple[float, ...]
    output_tokens: int
    peak_bytes: int | None = None

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens a second from sending to the last token of the last request, prefill included."""
        return self.output_tokens / max(self.last_s)

    @property
    def first_token_s(self) -> float:
        """Median seconds to the first token."""
        return statistics.median(self.first_s)

    @property
    def inter_token_s(self) -> float:
        """Median over requests of the mean seconds between two tokens; 0 for requests of one token."""
        gaps = self.output_tokens // len(self.first_s) - 1
        spans = [last - first for first, last in zip(self.first_s, self.last_s, strict=True)]
        return statistics.median(spans) / gaps if gaps else 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the smallest and the largest value."""

    median: float
    low: float
    high: float

    def text(self, form: str, *, scale: float = 1.0) -> str:
        """The median, in brackets the smallest and the largest value.

        >>> Spread(1.5, 1.25, 2.0).text(".2f")
        '1.50 [1.25, 2.00]'
        """
        median, low, high = (format(value * scale, form) for value in (self.median, self.low, self.high))
        return f"{median} [{low}, {high}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Generation speed of one model.

    Attributes:
        concurrency: Requests at once.
        tokens_per_s: Generated tokens a second over all requests, prefill included.
        first_token_s: Seconds to the first token.
        inter_token_s: Seconds between two tokens of a request.
        ratio: Tokens a second over those of the first model, wave by wave.
        peak_bytes: Largest memory of weights, cache and activations; None where it was not counted.
    """

    concurrency: int
    tokens_per_s: Spread
    first_token_s: Spread
    inter_token_s: Spread
    ratio: Spread
    peak_bytes: int | None


def spread(values: Sequence[float]) -> Spread:
    """Median, smallest and largest.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, low=1.0, high=3.0)
    """
    return Spread(statistics.median(values), min(values), max(values))


def summarize(waves: Sequence[Wave], baseline: Sequence[Wave]) -> Speed:
    """What waves say of a model.

    Args:
        waves: The model's.
        baseline: The first model's, each sent next to the one of the same place.
    """
    pairs = zip(waves, baseline, strict=True)
    return Speed(
        concurrency=len(waves[0].first_s),
        tokens_per_s=spread([wave.tokens_per_s for wave in waves]),
        first_token_s=spread([wave.first_token_s for wave in waves]),
        inter_token_s=spread([wave.inter_token_s for wave in waves]),
        ratio=spread([wave.tokens_per_s / other.tokens_per_s for wave, other in pairs]),
        peak_bytes=max((wave.peak_bytes for wave in waves if wave.peak_bytes is not None), default=None),
    )


def require_whole(wave: Wave, *, requests: int, output_tokens: int) -> Wave:
    """The wave, where every request got all of its tokens.

    Raises:
        MinitronError: One did not.
    """
    if (len(wave.first_s), wave.output_tokens) != (requests, requests * output_tokens):
        raise MinitronError(
            f"{requests} requests must get {output_tokens} tokens each, {len(wave.first_s)} got {wave.output_tokens}"
        )
    return wave
