"""On the quickstart's teacher: layerwise, in memory and two processes give the same scores, for every scorer."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.samples import Samples, pad_documents
from minitron.importance.calibrate import CalibrationSettings, calibrate
from minitron.importance.depth.greedy import LogitDepth
from minitron.importance.scorers import SCORERS
from minitron.importance.scorers.activation import ActivationScorer
from minitron.importance.scorers.scorer import SCORED_AXES
from minitron.importance.scores import Scores, load_scores
from minitron.runtime.loading import load_model, load_tokenizer
from minitron.runtime.stack import LayerwiseStack, MemoryStack

ROOT = Path(__file__).parents[2]
TEACHER = ROOT / "examples" / "quickstart" / "teacher"
ALL_SETTINGS = {
    name: CalibrationSettings(
        width=dict.fromkeys(SCORED_AXES, scorer), depth=depth, depth_samples=5, batch_size=2, depth_chunk=2
    )
    for name, scorer, depth in (
        ("activation", ActivationScorer(), None),
        ("activation-max-mean", ActivationScorer(sequence="max", batch="mean_abs"), LogitDepth(remove=3)),
        ("activation-l2-max", ActivationScorer(sequence="l2", batch="max"), LogitDepth(distance="logit_nmse")),
        ("activation-variance", ActivationScorer(sequence="variance", batch="variance"), None),
        ("preactivation", ActivationScorer(ffn_preactivation=True), None),
        ("flap", SCORERS["flap"](), None),
        ("output_energy", SCORERS["output_energy"](), LogitDepth(distance="logit_kld", remove=2)),
    )
}


def samples_of(checkpoint: Path, *, padded: bool) -> Samples:
    """Seven documents, so that two processes get different numbers of them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    documents = [text[start : start + 20 + 12 * number] for number, start in enumerate(range(0, 2100, 300))]
    samples = pad_documents(documents, load_tokenizer(checkpoint), seq_len=48, num_samples=7)
    if padded:
        assert samples.lengths is not None
        assert len(set(samples.lengths.tolist())) > 1
        return samples
    packed = pad_documents([text[n * 500 :] for n in range(7)], load_tokenizer(checkpoint), seq_len=48, num_samples=7)
    return Samples(token_ids=packed.token_ids)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("ranks")
    program = str(Path(__file__).with_name("ranks_program.py"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    subprocess.run(
        [*launcher, program, str(TEACHER), str(output)],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        timeout=300,
    )
    return output


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ALL_SETTINGS)
def test_three_ways_one_result(two_processes: Path, name: str, padded: bool) -> None:
    checkpoint, samples = open_checkpoint(TEACHER), samples_of(TEACHER, padded=padded)
    expected = calibrate(MemoryStack(load_model(TEACHER), checkpoint.shape), samples, ALL_SETTINGS[name])
    found = {"layerwise": calibrate(LayerwiseStack(checkpoint), samples, ALL_SETTINGS[name])}
    for way in ("memory", "layerwise"):
        for rank in (0, 1):
            found[f"{way}, process {rank}"] = load_scores(two_processes / f"{way}-{name}-{padded}-{rank}.safetensors")
    for scores in found.values():
        assert_close(scores, expected)


def assert_close(found: Scores, expected: Scores) -> None:
    assert found.removed == expected.removed
    assert found.hidden_size is not None
    assert expected.hidden_size is not None
    np.testing.assert_allclose(found.hidden_size, expected.hidden_size, rtol=1e-5)
    np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-5)
    for axis in ("intermediate_size", "mamba", "num_attention_heads"):
        one, other = getattr(found, axis), getattr(expected, axis)
        assert list(one) == list(other)
        for layer in other:
            scale = float(np.abs(other[layer]).mean())  # off-diagonal energies cross zero
            np.testing.assert_allclose(one[layer], other[layer], rtol=1e-5, atol=1e-5 * scale)
