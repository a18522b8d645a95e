"""The learning rate over a training, relative to its peak: linear warm-up, then a cosine."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSchedule:
    """A schedule over all tokens of a training.

    Attributes:
        tokens: Tokens of the whole training.
        warmup: Share of them that the rate rises in.
        floor: Rate at the end, relative to the peak.
    """

    tokens: float
    warmup: float = 0.0
    floor: float = 0.0

    def rate(self, tokens: float) -> float:
        """The rate after so many tokens, relative to its peak.

        >>> schedule = RateSchedule(tokens=100, warmup=0.2)
        >>> [round(schedule.rate(tokens), 3) for tokens in (0, 10, 20, 60, 100)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
        """
        place = min(1.0, tokens / self.tokens)
        if place < self.warmup:
            return place / self.warmup
        decayed = (place - self.warmup) / (1 - self.warmup)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * decayed)) / 2
