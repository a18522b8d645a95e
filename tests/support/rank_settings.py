"""What several processes calibrate by, and on."""

from pathlib import Path

from minitron.data.samples import Samples, pad_documents
from minitron.importance.settings import CalibrationSettings, DepthSettings, WidthSettings
from minitron.runtime.loading import load_tokenizer
from tests.support.paths import ROOT

ALL_SETTINGS = {
    name: CalibrationSettings(
        width=width, depth=DepthSettings(scorer=depth, remove=remove, samples=3, batches_at_once=2), batch_size=2
    )
    for name, width, depth, remove in (
        ("activation", WidthSettings.uniform("activation"), "block_influence", 0),
        ("activation-max-mean", WidthSettings.uniform("activation", sequence="max", batch="mean_abs"), "logit_mse", 2),
        ("activation-l2-max", WidthSettings.uniform("activation", sequence="l2", batch="max"), "logit_nmse", 0),
        (
            "activation-variance",
            WidthSettings.uniform("activation", sequence="variance", batch="variance"),
            "block_influence",
            0,
        ),
        ("preactivation", WidthSettings.uniform("activation", ffn_preactivation=True), "block_influence", 0),
        ("flap", WidthSettings.uniform("flap"), "block_influence", 0),
        ("output_energy", WidthSettings.uniform("output_energy"), "logit_kld", 2),
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
