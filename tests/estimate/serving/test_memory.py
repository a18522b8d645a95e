"""Bytes against the published models, and against what transformers really allocates."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitron.estimate.devices import find_device
from minitron.estimate.serving.fit import fit
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.units import GIB
from tests.support.models import make_tiny_model, make_tiny_shape
from tests.support.published import NANO_9B, NANO_12B, PATTERN_9B, published

LONG = Workload(context_tokens=131072)
PUBLISHED_BUDGET = int(find_device("a10g").visible_bytes * 0.95 - 1.3 * GIB)
CANDIDATES = {
    (4480, 17920, 112): 18.738,
    (4480, 15680, 128): 18.689,
    (4800, 14400, 120): 18.825,
}


def test_the_published_budget_is_19_657_gib() -> None:
    assert pytest.approx(19.657, abs=5e-4) == PUBLISHED_BUDGET / GIB


def test_the_published_models_need_their_published_bytes() -> None:
    nano_12b, nano_9b = memory_bytes(NANO_12B, LONG), memory_bytes(NANO_9B, LONG)
    assert nano_12b.kv_bytes == 3 * GIB
    assert nano_9b.kv_bytes == 2 * GIB
    assert nano_9b.ssm_bytes == 135 * 2**20
    assert nano_9b.total_bytes / GIB == pytest.approx(18.689, abs=5e-4)
    assert memory_bytes(published(PATTERN_9B, 5120, 20480, 40, 128, 80), LONG).total_bytes / GIB == pytest.approx(
        23.34, abs=5e-3
    )


@pytest.mark.parametrize(("dims", "gib"), CANDIDATES.items())
def test_the_three_published_candidates_fit(dims: tuple[int, int, int], gib: float) -> None:
    hidden, ffn, heads = dims
    report = fit(published(PATTERN_9B, hidden, ffn, 40, heads, 80), LONG, PUBLISHED_BUDGET)
    assert report.memory.total_bytes / GIB == pytest.approx(gib, abs=5e-4)
    assert report.fits


def test_the_teacher_and_the_depth_only_model_do_not_fit() -> None:
    assert not fit(NANO_12B, LONG, PUBLISHED_BUDGET).fits
    assert not fit(published(PATTERN_9B, 5120, 20480, 40, 128, 80), LONG, PUBLISHED_BUDGET).fits


@settings(max_examples=15)
@given(
    pattern=st.text(alphabet="M-*", min_size=0, max_size=4),
    heads_per_group=st.integers(1, 3),
    sequences=st.integers(1, 3),
    context=st.integers(1, 20),
)
def test_cache_and_weights_equal_what_transformers_allocates(
    pattern: str, heads_per_group: int, sequences: int, context: int
) -> None:
    shape = make_tiny_shape(hybrid_override_pattern="M*" + pattern, mamba_num_heads=2 * heads_per_group)
    model = make_tiny_model(shape).to(torch.bfloat16)
    memory = memory_bytes(shape, Workload(context_tokens=context, sequences=sequences))
    assert sum(p.nbytes for p in model.parameters()) == memory.weights_bytes
    with torch.no_grad():
        cache: Any = model(torch.full((sequences, context), 5), use_cache=True).past_key_values
    kv = ssm = conv = 0
    for layer, kind in zip(cache.layers, shape.hybrid_override_pattern, strict=True):
        if kind == "*":
            kv += layer.keys.nbytes + layer.values.nbytes
        elif kind == "M":
            ssm += _only(layer.recurrent_states).nbytes
            conv += _only(layer.conv_states).nbytes
    assert kv == memory.kv_bytes
    assert ssm == memory.ssm_bytes
    # transformers keeps conv_kernel inputs where conv_kernel - 1 suffice (and vLLM keeps only those).
    assert conv * (shape.conv_kernel - 1) == memory.conv_bytes * shape.conv_kernel


def _only(states: Any) -> torch.Tensor:
    tensor: torch.Tensor = next(iter(states.values())) if isinstance(states, dict) else states
    return tensor


@given(context=st.integers(1, 200_000), sequences=st.integers(1, 50), budget_mib=st.integers(17_000, 30_000))
def test_the_largest_context_and_sequences_are_the_last_that_fit(context: int, sequences: int, budget_mib: int) -> None:
    workload, budget = Workload(context_tokens=context, sequences=sequences), budget_mib * 2**20
    report = fit(NANO_9B, workload, budget)
    for largest, field in ((report.max_context_tokens, "context_tokens"), (report.max_sequences, "sequences")):
        assert largest is not None
        if largest > 0:
            assert fit(NANO_9B, workload.changed(**{field: largest}), budget).fits
        assert not fit(NANO_9B, workload.changed(**{field: largest + 1}), budget).fits


def test_a_model_without_attention_has_no_largest_context() -> None:
    shape = make_tiny_shape(hybrid_override_pattern="M-")
    assert fit(shape, LONG, 10**9).max_context_tokens is None


def test_a_model_of_mlps_alone_has_no_largest_context_or_number_of_sequences() -> None:
    report = fit(make_tiny_shape(hybrid_override_pattern="--"), LONG, 10**9)
    assert (report.max_context_tokens, report.max_sequences) == (None, None)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"kv_dtype\n  Input should be 'fp32', 'bf16', 'fp16', 'fp8' or 'int8' \[.*input_value='fp4'"
    ):
        Workload(context_tokens=1, kv_dtype="fp4")
