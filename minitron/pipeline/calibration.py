"""Calibration samples, and models to run them through, as a recipe's sections describe them."""

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.data.samples import Samples, blend_samples
from minitron.data.token_ids import require_model_ids
from minitron.pipeline.text import text_sources
from minitron.recipe.prune import CalibrationSection
from minitron.recipe.score import ScoreSection
from minitron.runtime.loading import load_model, load_tokenizer
from minitron.runtime.stack import LayerwiseStack, MemoryStack, Stack


def read_samples(section: CalibrationSection | ScoreSection, source: Checkpoint, *, seed: int) -> Samples:
    """Samples of a section's text in the checkpoint's tokens.

    Raises:
        MinitronError: The text holds nothing, or its ids are not the model's.
    """
    assert section.seq_len is not None
    tokenizer = load_tokenizer(source.folder)
    samples = blend_samples(
        text_sources(section.data),
        tokenizer,
        seq_len=section.seq_len,
        num_samples=section.samples,
        seed=seed,
        packed=section.packed,
    )
    require_model_ids(samples.token_ids, tokenizer, source.shape.vocab_size)
    return samples


def open_stack(checkpoint: Checkpoint, *, layerwise: bool, device: str) -> Stack:
    """A checkpoint's model, whole in memory or one block at a time."""
    if layerwise:
        return LayerwiseStack(checkpoint, device=device)
    return MemoryStack(load_model(checkpoint.folder, device=device), checkpoint.shape)
