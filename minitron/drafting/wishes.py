"""What somebody wants of a student, which no file says."""

from dataclasses import dataclass

# GPUs of one machine that training is tried on, the fewest first.
GPU_COUNTS = (1, 2, 4, 8)
NO_GPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """Where the student is served, what it is made from, and where.

    Attributes:
        gpu: Device profile whose memory is the budget; None where `memory_gib` is given.
        memory_gib: The budget in GiB, in place of a profile.
        max_params: Most parameters; None without a limit.
        context_tokens: Tokens that each served sequence holds.
        sequences: Sequences served at once.
        weights_dtype: Precision that it is served in.
        data: Text for calibration and training; part of its documents is held out for the evaluation.
        heldout: Text for the evaluation, in place of that part.
        train_gpu: Device profile that it is trained on, or `cpu`.
        train_gpus: GPUs of it; as few of 1, 2, 4 and 8 as hold the training when None.
        tokens: Tokens to distill on; a twentieth of the student's parameters when None.
    """

    gpu: str | None = "a10g"
    memory_gib: float | None = None
    max_params: int | None = None
    context_tokens: int = 131072
    sequences: int = 1
    weights_dtype: str = "bf16"
    data: tuple[str, ...] = ("text.jsonl",)
    heldout: tuple[str, ...] = ()
    train_gpu: str = "h100"
    train_gpus: int | None = None
    tokens: int | None = None
