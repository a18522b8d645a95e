"""What waves say of a model, against sums by hand."""

import statistics

import numpy as np
import pytest

from minitron.errors import MinitronError
from minitron.evaluate.speed.measure import measure
from minitron.evaluate.speed.settings import SpeedSettings
from minitron.evaluate.speed.wave import Spread, Wave, require_whole, summarize


def test_rates_of_one_wave() -> None:
    wave = Wave(first_s=(0.5, 1.0, 3.0), last_s=(2.5, 5.0, 6.0), output_tokens=15)
    assert wave.tokens_per_s == 15 / 6.0
    assert wave.first_token_s == 1.0
    assert wave.inter_token_s == 3.0 / 4  # spans 2, 4 and 3 over the four gaps between five tokens


def test_one_token_has_no_time_between_tokens() -> None:
    assert Wave(first_s=(1.0, 2.0), last_s=(1.0, 2.0), output_tokens=2).inter_token_s == 0


def test_medians_spread_and_ratios_of_pairs() -> None:
    rng = np.random.default_rng(0)
    seconds, slower = rng.uniform(1, 2, 7), rng.uniform(1, 4, 7)
    waves = [Wave(first_s=(s / 2,), last_s=(s,), output_tokens=6, peak_bytes=int(s * 100)) for s in seconds]
    others = [Wave(first_s=(s / 2,), last_s=(s,), output_tokens=6) for s in slower]
    found = summarize(waves, others)
    rates = [6 / s for s in seconds]
    ratios = [other / s for s, other in zip(seconds, slower, strict=True)]
    assert found.tokens_per_s == Spread(statistics.median(rates), min(rates), max(rates))
    assert found.ratio.median == pytest.approx(statistics.median(ratios))
    assert (found.ratio.low, found.ratio.high) == (pytest.approx(min(ratios)), pytest.approx(max(ratios)))
    assert found.first_token_s.median == pytest.approx(statistics.median(seconds) / 2)
    assert found.peak_bytes == int(max(seconds) * 100)
    assert summarize(others, others).peak_bytes is None


def test_a_request_without_all_its_tokens_is_told() -> None:
    wave = Wave(first_s=(1.0, 1.0), last_s=(2.0, 2.0), output_tokens=9)
    with pytest.raises(MinitronError, match="2 requests must get 5 tokens each, 2 got 9"):
        require_whole(wave, requests=2, output_tokens=5)


def test_models_take_turns_on_the_same_new_prompts_and_the_first_wave_does_not_count() -> None:
    calls: list[tuple[str, list[list[int]]]] = []

    def runs(name: str, seconds: list[float]):  # type: ignore[no-untyped-def]
        def run(prompts, output_tokens: int) -> Wave:  # type: ignore[no-untyped-def]
            calls.append((name, prompts))
            s = seconds.pop(0)
            return Wave(first_s=(s,) * 3, last_s=(s,) * 3, output_tokens=3 * output_tokens)

        return run

    settings = SpeedSettings(input_tokens=5, output_tokens=4, concurrency=3, repetitions=2)
    models = {"teacher": runs("teacher", [99, 4, 6]), "student": runs("student", [99, 1, 2])}
    found = measure(models, settings, vocab_size=11)
    assert [name for name, _ in calls] == ["teacher", "student"] * 3
    prompts = [prompts for _, prompts in calls]
    assert prompts[0] == prompts[1] != prompts[2] == prompts[3] != prompts[4]
    assert np.shape(prompts) == (6, 3, 5)
    assert 0 <= np.min(prompts) <= np.max(prompts) < 11
    assert found["teacher"].ratio == Spread(1, 1, 1)
    assert found["student"].ratio == Spread(3.5, 3, 4)
    assert found["student"].tokens_per_s == Spread(9, 6, 12)
