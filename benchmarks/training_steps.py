"""Training steps at published dims and random weights, timed: what `kd_train.py` and `gpu_check.py` measure."""

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoModelForCausalLM, NemotronHConfig, PreTrainedModel, TrainerCallback

from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training.stage import DistillSettings, TrainingRun, distill
from minitron.models.shape import HybridShape
from minitron.runtime.building import set_time_step_limit
from minitron.runtime.loading import count_params


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """How steps are timed.

    Attributes:
        device: cuda, in bf16, or cpu, in fp32.
        seq_len: Tokens a sequence.
        batch_size: Sequences a step.
        micro_batch_size: Sequences of one forward pass.
        chunk_tokens: Tokens whose logits are held at once.
        optim: Optimizer by its name in Hugging Face Trainer.
        fp8: Products of linear layers in 8-bit floats, on cuda alone.
        left_out: First steps, in which memory and kernels are warmed up.
        steps: Steps that are timed.
    """

    device: str
    seq_len: int
    batch_size: int
    micro_batch_size: int = 1
    chunk_tokens: int = 512
    optim: str = "adamw_torch"
    fp8: bool = False
    left_out: int = 2
    steps: int = 5

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, and of products that are not in fp8."""
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    @property
    def precision(self) -> Literal["fp32", "bf16", "fp8"]:
        """Of products, as a recipe names it."""
        return "fp8" if self.fp8 else "bf16" if self.device == "cuda" else "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedSteps:
    """Steps that were timed.

    Attributes:
        teacher_params: The teacher's parameters.
        student_params: The student's.
        seconds: Of each step.
        tokens_per_s: Trained tokens a second, by the median step.
    """

    teacher_params: int
    student_params: int
    seconds: tuple[float, ...]
    tokens_per_s: float


def make_shape(shape: HybridShape, *, blocks: int | None, shrink: int) -> HybridShape:
    """The first blocks of a shape, its widths divided."""
    pattern = shape.hybrid_override_pattern[:blocks]
    return replace(
        shape,
        hybrid_override_pattern=pattern,
        hidden_size=shape.hidden_size // shrink,
        intermediate_size=shape.intermediate_size // shrink,
        mamba_num_heads=max(shape.n_groups, shape.mamba_num_heads // shrink),
        vocab_size=shape.vocab_size // shrink,
    )


def make_model(shape: HybridShape, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """A model of random weights, made on its device."""
    config = NemotronHConfig(
        **shape.config_sizes, hybrid_override_pattern=shape.hybrid_override_pattern, chunk_size=128, pad_token_id=0
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    set_time_step_limit(model)
    return model.eval()


class StepClock(TrainerCallback):
    """Seconds of each step."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds, self.started = device, [], 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self.started = self.now()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stops it."""
        self.seconds.append(self.now() - self.started)

    def now(self) -> float:
        """Time at which all that was started is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def time_steps(teacher_shape: HybridShape, student_shape: HybridShape, settings: StepSettings) -> TimedSteps:
    """Whole steps of `minitron.distill.distill` with gradient checkpointing."""
    teacher, student = (make_model(shape, settings.device, settings.dtype) for shape in (teacher_shape, student_shape))
    count = settings.batch_size * (settings.steps + settings.left_out)
    sequences_NT = np.random.default_rng(0).integers(
        0, teacher_shape.vocab_size, (count, settings.seq_len), dtype=np.int32
    )
    clock = StepClock(settings.device)
    training = DistillSettings(
        batch_size=settings.batch_size,
        micro_batch_size=settings.micro_batch_size,
        learning_rate=1e-5,
        optim=settings.optim,
        precision=settings.precision,
        gradient_checkpointing=True,
        chunk_tokens=settings.chunk_tokens,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(state_folder=Path(folder), seed=0, callbacks=[clock])
        distill(student, OnlineTeacher(teacher), sequences_NT, training, run=run)
    seconds = tuple(clock.seconds[settings.left_out :])
    return TimedSteps(
        teacher_params=count_params(teacher),
        student_params=count_params(student),
        seconds=seconds,
        tokens_per_s=settings.batch_size * settings.seq_len / statistics.median(seconds),
    )
