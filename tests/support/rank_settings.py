"""What several processes calibrate by, and on."""

from pathlib import Path

from minitron.data.samples import Samples, pad_documents
from minitron.importance.calibrate import CalibrationSettings
from minitron.importance.depth.greedy import LogitDepth
from minitron.importance.scorers import SCORERS
from minitron.importance.scorers.activation import ActivationScorer
from minitron.importance.scorers.scorer import SCORED_AXES
from minitron.runtime.loading import load_tokenizer
from tests.support.paths import ROOT

ALL_SETTINGS = {
    name: CalibrationSettings(
        width=dict.fromkeys(SCORED_AXES, scorer), depth=depth, depth_samples=3, batch_size=2, depth_chunk=2
    )
    for name, scorer, depth in (
        ("activation", ActivationScorer(), None),
        ("activation-max-mean", ActivationScorer(sequence="max", batch="mean_abs"), LogitDepth(remove=2)),
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
    samples = pad_documents(documents, load_tokenizer(checkpoint), seq_len=32, num_samples=7)
    if padded:
        assert samples.lengths is not None
        assert len(set(samples.lengths.tolist())) > 1
        return samples
    packed = pad_documents([text[n * 500 :] for n in range(7)], load_tokenizer(checkpoint), seq_len=32, num_samples=7)
    return Samples(token_ids=packed.token_ids)
