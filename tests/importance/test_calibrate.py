"""Scores against the oracle, run in memory and layerwise, packed and padded, for every scorer."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.samples import Samples
from minitron.importance.calibrate import calibrate
from minitron.importance.selection import mamba_channels, mamba_heads
from minitron.importance.settings import CalibrationSettings, DepthSettings, WidthSettings
from minitron.models.shape import HybridShape
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack, MemoryStack, Stack
from tests.support import score_oracle as oracle
from tests.support.models import make_tiny_model, write_tiny_checkpoint
from tests.support.samples import make_samples

Case = tuple[Stack, PreTrainedModel, Samples, list[torch.Tensor]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("teacher") / "teacher")


@pytest.fixture(params=[(way, padded) for way in ("memory", "layerwise") for padded in (False, True)], ids=str)
def case(request: pytest.FixtureRequest, folder: Path) -> Case:
    way, padded = request.param
    model, checkpoint = load_model(folder), open_checkpoint(folder)
    stack: Stack = MemoryStack(model, checkpoint.shape) if way == "memory" else LayerwiseStack(checkpoint)
    samples = make_samples(padded=padded)
    lengths = [13] * 5 if samples.lengths is None else samples.lengths.tolist()
    bare = [torch.from_numpy(row[:n]).long() for row, n in zip(samples.token_ids, lengths, strict=True)]
    return stack, model, samples, bare


# Each way of reducing over a sequence and over a batch once; all pairs among the slow tests.
ONCE = [("mean_abs", "l2"), ("l2", "mean_abs"), ("variance", "max"), ("max", "variance")]
PAIRS = [
    pair if pair in ONCE else pytest.param(*pair, marks=pytest.mark.slow)
    for pair in itertools.product(("mean_abs", "l2", "variance", "max"), repeat=2)
]


def assert_axis(found: Any, expected: Any, rtol: float = 1e-5) -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for layer, values in expected.items():
            np.testing.assert_allclose(found[layer], values, rtol=rtol, atol=rtol * float(np.abs(values).mean()) * 0.01)
    else:
        np.testing.assert_allclose(found, expected, rtol=rtol)


@pytest.mark.parametrize("batch_size", [2, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("sequence", "batch"), PAIRS)
def test_activation_scores(case: Case, tiny_shape: HybridShape, sequence: Any, batch: Any, batch_size: int) -> None:
    stack, model, samples, bare = case
    width = WidthSettings.uniform("activation", sequence=sequence, batch=batch)
    settings = CalibrationSettings(width=width, batch_size=batch_size)
    scores = calibrate(stack, samples, settings)
    heard = oracle.listen(model, tiny_shape, bare)
    for axis, expected in oracle.activation(heard, tiny_shape, sequence, batch).items():
        assert_axis(getattr(scores, axis), expected, rtol=5e-5 if "variance" in (sequence, batch) else 1e-5)
    np.testing.assert_allclose(scores.depth, oracle.influence(heard), rtol=1e-5)
    assert (scores.num_samples, scores.num_tokens) == (5, sum(len(ids_T) for ids_T in bare))


def test_ffn_scores_before_the_activation_function(case: Case, tiny_shape: HybridShape) -> None:
    stack, model, samples, bare = case
    width = WidthSettings.uniform("activation", axes=["intermediate_size"], ffn_preactivation=True)
    settings = CalibrationSettings(width=width)
    scores = calibrate(stack, samples, settings)
    heard = oracle.listen(model, tiny_shape, bare)
    for layer, x in heard.places["ffn_pre"].items():
        np.testing.assert_allclose(scores.intermediate_size[layer], oracle.aggregate(x, "mean_abs", "l2"), rtol=1e-5)
    assert scores.hidden_size is None
    assert not scores.mamba


def test_flap_scores(case: Case, tiny_shape: HybridShape) -> None:
    stack, model, samples, bare = case
    settings = CalibrationSettings(width=WidthSettings.uniform("flap"), batch_size=2)
    scores = calibrate(stack, samples, settings)
    for axis, expected in oracle.flap(oracle.listen(model, tiny_shape, bare), model, tiny_shape).items():
        assert_axis(getattr(scores, axis), expected)


def test_output_energy_is_the_error_that_zeroing_a_unit_makes(case: Case, tiny_shape: HybridShape) -> None:
    stack, model, samples, bare = case
    settings = CalibrationSettings(width=WidthSettings.uniform("output_energy"), batch_size=2)
    scores = calibrate(stack, samples, settings)
    expected = oracle.energies(oracle.listen(model, tiny_shape, bare), model, tiny_shape)
    for axis in ("hidden_size", "intermediate_size", "num_attention_heads"):
        assert_axis(getattr(scores, axis), expected[axis])
    for layer, energy in scores.mamba.items():
        np.testing.assert_allclose(mamba_heads(energy), expected["mamba_heads"][layer], rtol=1e-5)
        np.testing.assert_allclose(mamba_channels(energy), expected["mamba_channels"][layer], rtol=1e-5)


def test_output_energy_of_some_channels_is_that_of_the_head_cut_to_them(folder: Path, tiny_shape: HybridShape) -> None:
    model, samples = load_model(folder), make_samples(padded=False)
    settings = CalibrationSettings(width=WidthSettings.uniform("output_energy", axes=["mamba"]))
    scores = calibrate(MemoryStack(model, tiny_shape), samples, settings)
    heard = oracle.listen(model, tiny_shape, [torch.from_numpy(row).long() for row in samples.token_ids])
    for layer, energy in scores.mamba.items():
        weight_DC = oracle.weight(model, layer, "mixer.out_proj.weight")
        found = mamba_heads(energy, np.array([1, 4]))
        columns = [np.array([1, 4]) + 5 * head for head in range(8)]
        expected = [oracle.zeroing_error(heard.places["mamba_output"][layer], weight_DC, c) for c in columns]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("scorer", ["activation", "flap", "output_energy"])
def test_planted_dead_units_rank_last(tiny_shape: HybridShape, scorer: Any) -> None:
    model = make_tiny_model(tiny_shape)
    blocks: Any = model.base_model
    mlp, mamba, attention = (tiny_shape.layers_of(kind)[0] for kind in "-M*")
    inner = tiny_shape.mamba_num_heads * tiny_shape.mamba_head_dim
    with torch.no_grad():
        blocks.layers[mlp].mixer.up_proj.weight[17] = 0
        in_proj_RD = blocks.layers[mamba].mixer.in_proj.weight
        for start in (0, inner):  # z silences the gated output, x the published place
            in_proj_RD[start + 6 * 5 : start + 7 * 5] = 0  # head 6
            in_proj_RD[start + 3 : start + inner : 5] = 0  # channel 3 of every head
        blocks.layers[attention].mixer.v_proj.weight[0:10] = 0  # key-value head 0, which serves heads 0 and 1
        for block in blocks.layers:
            block.norm.weight[9] = 0
        blocks.layers[7].mixer.down_proj.weight.zero_()
    settings = CalibrationSettings(width=WidthSettings.uniform(scorer))
    samples = Samples(token_ids=np.random.default_rng(0).integers(3, 271, (4, 13), dtype=np.int32))
    scores = calibrate(MemoryStack(model, tiny_shape), samples, settings)
    assert scores.intermediate_size[mlp].argmin() == 17
    assert mamba_heads(scores.mamba[mamba]).argmin() == 6
    assert mamba_channels(scores.mamba[mamba]).argmin() == 3
    assert set(scores.num_attention_heads[attention].argsort()[:2].tolist()) == {0, 1}
    assert scores.hidden_size is not None
    assert scores.hidden_size.argmin() == 9
    assert scores.depth.argmin() == 7


@pytest.mark.parametrize("distance", ["logit_mse", pytest.param("logit_nmse", marks=pytest.mark.slow), "logit_kld"])
@pytest.mark.parametrize("trials_at_once", [3, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 8))])
def test_depth_scores_are_those_of_really_removing_each_block(case: Case, distance: Any, trials_at_once: int) -> None:
    stack, model, samples, bare = case
    depth = DepthSettings(scorer=distance, trials_at_once=trials_at_once, batches_at_once=2)
    scores = calibrate(
        stack, samples, CalibrationSettings(width=WidthSettings.uniform(None), depth=depth, batch_size=2)
    )
    original = oracle.logits_without(model, bare, set())
    expected = [oracle.distance(distance, original, oracle.logits_without(model, bare, {n})) for n in range(8)]
    np.testing.assert_allclose(scores.depth, expected, rtol=2e-5)
    assert scores.removed == ()


def test_depth_samples_are_the_first_ones(folder: Path, tiny_shape: HybridShape) -> None:
    stack = MemoryStack(load_model(folder), tiny_shape)
    depth = DepthSettings(scorer="logit_mse", samples=3)
    some = CalibrationSettings(width=WidthSettings.uniform(None), depth=depth, batch_size=2)
    scores = calibrate(stack, make_samples(padded=False), some)
    alone = calibrate(stack, make_samples(padded=False, count=3), some)
    np.testing.assert_allclose(scores.depth, alone.depth, rtol=1e-12)


def test_calibration_leaves_no_hook_behind(tiny_model: PreTrainedModel, tiny_shape: HybridShape) -> None:
    calibrate(MemoryStack(tiny_model, tiny_shape), make_samples(padded=False))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_model.modules())


def test_scores_that_are_not_finite_are_refused(tiny_model: PreTrainedModel, tiny_shape: HybridShape) -> None:
    backbone: Any = tiny_model.base_model
    with torch.no_grad():
        backbone.layers[1].mixer.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="scores must be finite, those of .* in block 1 are not"):
        calibrate(MemoryStack(tiny_model, tiny_shape), make_samples(padded=False))
