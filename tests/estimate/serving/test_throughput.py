"""The throughput model against the published measurements, and against what cannot be."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitron.estimate.devices import Device, find_device
from minitron.estimate.serving.throughput import (
    Lengths,
    ServingCost,
    predict_tokens_per_second,
    serving_cost,
    tokens_per_second,
)
from minitron.estimate.serving.workload import Engine, Workload
from minitron.models.families.nemotron_h import NEMOTRON_H
from minitron.models.shape import HybridShape
from minitron.units import GIB
from tests.support.published import NANO_9B, PATTERN_9B, published

A10G = find_device("a10g")
BUDGET = int(A10G.visible_bytes * 0.95 - 1.3 * GIB)
WORKLOAD = Workload(context_tokens=1)
LONG, SHORT = Lengths(input_tokens=8192, output_tokens=16384), Lengths(input_tokens=1024, output_tokens=8192)


def qwen3_8b(lengths: Lengths) -> ServingCost:
    """Qwen3-8B from its config.json: 36 blocks, hidden 4096, FFN 12288, 32 heads and 8 KV heads of 128, V 151936."""
    hidden, ffn, vocab, blocks = 4096, 12288, 151936, 36
    block = 2 * hidden * 4096 + 2 * hidden * 1024 + 3 * hidden * ffn + 2 * hidden + 2 * 128
    table = vocab * hidden
    params = blocks * block + 2 * table + hidden
    assert params == 8_190_735_360
    token_bytes = blocks * 2 * 8 * 128 * 2
    assert token_bytes == 147_456
    sequence = token_bytes * (lengths.input_tokens + lengths.output_tokens)
    return ServingCost(
        step_bytes=2 * (params - table),
        token_bytes=token_bytes,
        state_bytes=0,
        token_operations=2 * (params - table),
        context_operations=4 * blocks * 32 * 128,
        max_sequences=(BUDGET - 2 * params) // sequence,
    )


@pytest.mark.parametrize(("lengths", "published_ratio"), [(LONG, 6.3), (SHORT, 3.3)])
def test_the_published_speed_up_over_qwen3_is_explained_within_a_quarter(
    lengths: Lengths, published_ratio: float
) -> None:
    ours = predict_tokens_per_second(NANO_9B, WORKLOAD, A10G, lengths, BUDGET)
    theirs = float(tokens_per_second(qwen3_8b(lengths), A10G, lengths))
    assert ours / theirs == pytest.approx(published_ratio, rel=0.25)


def test_the_published_candidates_come_in_the_published_order() -> None:
    shapes = [
        published(PATTERN_9B, 4480, 17920, 40, 112, 80),
        NANO_9B,
        published(PATTERN_9B, 4800, 14400, 40, 120, 80),
    ]
    speeds = [predict_tokens_per_second(shape, WORKLOAD, A10G, LONG, BUDGET) for shape in shapes]
    assert speeds == sorted(speeds, reverse=True)
    # The one number that the bandwidth efficiency was fitted to.
    assert speeds[1] == pytest.approx(156.42, rel=0.005)


def test_many_shapes_at_once_equal_one_at_a_time() -> None:
    heads = np.array([64, 128, 96])
    sizes = {key: np.full(3, size) for key, size in NANO_9B.sizes.items()} | {"mamba_num_heads": heads}
    cost = serving_cost(NEMOTRON_H, NANO_9B.counts, sizes, WORKLOAD, LONG, BUDGET)
    together = tokens_per_second(cost, A10G, LONG)
    alone = [
        predict_tokens_per_second(NANO_9B.resized(mamba_num_heads=int(each)), WORKLOAD, A10G, LONG, BUDGET)
        for each in heads
    ]
    assert together.tolist() == pytest.approx(alone, rel=1e-12)


@given(hidden=st.sampled_from([2048, 3072, 4480]), reserved=st.integers(0, 8), out=st.integers(1, 30_000))
def test_no_prediction_beats_reading_the_weights_once_for_a_whole_batch(hidden: int, reserved: int, out: int) -> None:
    shape: HybridShape = NANO_9B.resized(hidden_size=hidden)
    lengths, budget = Lengths(input_tokens=512, output_tokens=out), BUDGET - reserved * GIB // 4
    speed = predict_tokens_per_second(shape, WORKLOAD, A10G, lengths, budget)
    cost = serving_cost(NEMOTRON_H, shape.counts, shape.sizes, WORKLOAD, lengths, budget)
    assert speed < cost.max_sequences * 600e9 / cost.step_bytes or speed == cost.max_sequences == 0


def test_fp8_weights_are_faster_where_there_are_fp8_cores_to_compute_on() -> None:
    bf16, fp8 = (Workload(context_tokens=1, weights_dtype=dtype) for dtype in ("bf16", "fp8"))
    device, budget = find_device("h100"), 70 * GIB
    assert predict_tokens_per_second(NANO_9B, fp8, device, LONG, budget) > predict_tokens_per_second(
        NANO_9B, bf16, device, LONG, budget
    )


def test_a_device_without_rates_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the bandwidth and bf16 rate of custom"):
        predict_tokens_per_second(
            NANO_9B, WORKLOAD, Device(name="custom", visible_gib=24, source="a test"), LONG, BUDGET
        )


def test_an_engine_runs_no_more_sequences_than_it_may() -> None:
    lengths, device, budget = Lengths(input_tokens=128, output_tokens=128), find_device("h200"), 120 * GIB
    speeds = [
        predict_tokens_per_second(
            NANO_9B,
            Workload(
                context_tokens=1,
                accounting="vllm",
                workspace_gib=0,
                engine=Engine(max_num_seqs=running, prefix_caching=False),
            ),
            device,
            lengths,
            budget,
        )
        for running in (64, 256, 10_000)
    ]
    assert speeds[0] < speeds[1] < speeds[2]


def test_a_model_without_a_cache_is_bounded_by_what_an_engine_runs() -> None:
    shape = replace(NANO_9B, hybrid_override_pattern="--")
    assert 0 < predict_tokens_per_second(shape, WORKLOAD, A10G, SHORT, BUDGET) < 1e5
