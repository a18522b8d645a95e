"""Calibration of every family: block by block from files it gives the scores of the model in memory."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.samples import Samples
from minitron.importance.calibrate import calibrate
from minitron.importance.scorers import SCORERS
from minitron.importance.scores import LAYER_AXES, Scores, random_scores
from minitron.importance.settings import CalibrationSettings, DepthSettings, WidthSettings
from minitron.models.families import FAMILIES
from minitron.models.shape import HybridShape
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack, MemoryStack
from tests.support.models import write_tiny_checkpoint
from tests.support.strategies import seeds, shapes


def arrays(scores: Scores) -> dict[str, Any]:
    found: dict[str, Any] = {"hidden_size": scores.hidden_size, "depth": scores.depth}
    for axis in LAYER_AXES:
        found |= {f"{axis}.{layer}": score for layer, score in getattr(scores, axis).items()}
    return found


def make_samples(shape: HybridShape, seed: int, *, padded: bool) -> Samples:
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(3, shape.vocab_size, (4, 9), dtype=np.int32)
    return Samples(token_ids=token_ids, lengths=rng.integers(2, 10, 4) if padded else None)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
@pytest.mark.parametrize("scorer", sorted(SCORERS))
@settings(max_examples=5)
@given(data=st.data(), seed=seeds, padded=st.booleans(), by_logits=st.booleans())
def test_layerwise_scores_are_those_of_the_model_in_memory(
    model_type: str, scorer: Any, data: Any, seed: int, padded: bool, by_logits: bool
) -> None:
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    samples = make_samples(shape, seed, padded=padded)
    settings = CalibrationSettings(
        width=WidthSettings.uniform(scorer),
        depth=DepthSettings(scorer="logit_mse" if by_logits else "block_influence"),
        batch_size=3,
    )
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(write_tiny_checkpoint(Path(folder) / "teacher", shape=shape, shard_bytes=5000))
        layerwise = arrays(calibrate(LayerwiseStack(checkpoint), samples, settings))
        model = load_model(checkpoint.folder)
        in_memory = arrays(calibrate(MemoryStack(model, shape), samples, settings))
    assert sorted(in_memory) == sorted(layerwise) == sorted(arrays(random_scores(shape, seed=0)))
    for name, score in in_memory.items():
        atol = 1e-6 * float(np.abs(score).mean())
        np.testing.assert_allclose(layerwise[name], score, rtol=2e-5, atol=atol, err_msg=name)
