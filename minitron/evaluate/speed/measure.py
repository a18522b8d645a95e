"""Measures several models in turn, wave by wave, so that what disturbs the machine disturbs all of them alike."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from minitron.evaluate.speed.settings import SpeedSettings
from minitron.evaluate.speed.wave import Speed, Wave, require_whole, summarize
from minitron.progress import track

Prompts = Sequence[Sequence[int]]
# (prompts, tokens to generate for each) -> what that took.
RunWave = Callable[[Prompts, int], Wave]


def measure(models: Mapping[str, RunWave], settings: SpeedSettings, *, vocab_size: int) -> dict[str, Speed]:
    """Speed of each model; ratios are to the first one.

    All models get the same prompts of random tokens, a new set each wave, so that no prefix is found again; generation
    never stops early. The first wave of each warms up and does not count.

    Args:
        models: Name -> how a wave runs through it.
        settings: Lengths, requests and repetitions.
        vocab_size: Tokens are drawn below this; the smallest of the models' vocabularies.

    Raises:
        MinitronError: An engine stopped, or did not give all tokens.
    """
    rng = np.random.default_rng(settings.seed)
    waves: dict[str, list[Wave]] = {name: [] for name in models}
    turns = [(turn, name) for turn in range(settings.repetitions + 1) for name in models]
    prompts: list[list[int]] = []
    for turn, name in track(turns, "speed", total=len(turns)):
        if name == turns[0][1]:
            prompts = rng.integers(vocab_size, size=(settings.concurrency, settings.input_tokens)).tolist()
        wave = models[name](prompts, settings.output_tokens)
        require_whole(wave, requests=settings.concurrency, output_tokens=settings.output_tokens)
        if turn:
            waves[name].append(wave)
    baseline = waves[turns[0][1]]
    return {name: summarize(found, baseline) for name, found in waves.items()}
