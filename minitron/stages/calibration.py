"""Calibration text and the models that it is run through, as a recipe's sections ask for them."""

from minitron.hybrid.checkpoint import Checkpoint
from minitron.hybrid.model import load_model, load_tokenizer
from minitron.hybrid.samples import Samples, blend_samples
from minitron.hybrid.stack import LayerwiseStack, MemoryStack, Stack
from minitron.recipe import CalibrationSection, ScoreSection
from minitron.stages.data import text_sources


def read_samples(section: CalibrationSection | ScoreSection, source: Checkpoint, *, seed: int) -> Samples:
    """Samples of a section's text in the checkpoint's tokens.

    Raises:
        ValueError: The text holds nothing, or its ids are not the model's.
    """
    assert section.seq_len is not None
    samples = blend_samples(
        text_sources(section.data),
        load_tokenizer(source.folder),
        seq_len=section.seq_len,
        num_samples=section.samples,
        seed=seed,
        packed=section.packed,
    )
    highest = int(samples.token_ids.max())
    if highest >= source.shape.vocab_size:
        raise ValueError(
            f"token ids must be below the model's vocab_size {source.shape.vocab_size}, the tokenizer gives {highest}"
        )
    return samples


def open_stack(checkpoint: Checkpoint, *, layerwise: bool, device: str) -> Stack:
    """A checkpoint's model, whole in memory or one block at a time."""
    if layerwise:
        return LayerwiseStack(checkpoint, device=device)
    return MemoryStack(load_model(checkpoint.folder, device=device), checkpoint.shape)
