"""One stage of distillation: token blocks, teacher and student in; recovered student and its loss curve out."""

# N blocks, T tokens

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_model
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from minitron.distill.dataset import PackedSequences, SequenceDataset, collate
from minitron.distill.loss.chunked import DEFAULT_CHUNK_TOKENS
from minitron.distill.loss.objective import Objective
from minitron.distill.sharding import load_weights, shard_blocks
from minitron.distill.teachers.teacher import Teacher
from minitron.distill.training.model import DistillationModel, HiddenMatch
from minitron.distill.training.states import last_whole_state, read_history, step_of
from minitron.distill.training.trainer import DistillationTrainer, DivergedError
from minitron.distributed import Ranks
from minitron.errors import MinitronError
from minitron.progress import progress_bar
from minitron.runtime.backbone import blocks_of

logger = logging.getLogger(__name__)

POINTS_OF_CURVE = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillSettings:
    """How to distill.

    Attributes:
        objective: What is minimized.
        hidden: A loss on hidden states beside it.
        epochs: Passes over the blocks.
        batch_size: Sequences in one optimizer step, over all processes.
        micro_batch_size: Sequences in one forward pass of a process; None: its whole share of the batch.
        learning_rate: Peak learning rate.
        min_learning_rate: Where the cosine decay ends.
        warmup_steps: Steps of linear warm-up before it.
        weight_decay: AdamW's weight decay, where Trainer applies it.
        max_grad_norm: Gradient norm that is clipped to.
        adam_beta2: AdamW's second decay rate.
        optim: Optimizer by Trainer's name.
        optim_args: Its own arguments, in Trainer's form.
        bf16: The blocks' products in bf16 (autocast); the loss stays in fp32.
        gradient_checkpointing: Recompute blocks in the backward pass.
        offload_activations: Keep what they are recomputed from on the host (CUDA).
        sharded: Weights and optimizer states in shards over all processes.
        chunk_tokens: Tokens whose logits are held at once.
        save_steps: Steps between resumable states; 0 saves none.
        report_to: Trackers by Trainer's names.
    """

    objective: Objective = field(default_factory=Objective)
    hidden: HiddenMatch | None = None
    epochs: int = 1
    batch_size: int
    micro_batch_size: int | None = None
    learning_rate: float
    min_learning_rate: float = 0.0
    warmup_steps: int = 60
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    adam_beta2: float = 0.95
    optim: str = "adamw_torch"
    optim_args: str | None = None
    bf16: bool = False
    gradient_checkpointing: bool = False
    offload_activations: bool = False
    sharded: bool = False
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS
    save_steps: int = 0
    report_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillRecord:
    """What distillation did.

    Attributes:
        curve: (tokens seen, mean loss in nats a token since the last point).
        tokens: Tokens trained on.
        seconds: Wall time of this process's share.
    """

    curve: tuple[tuple[int, float], ...]
    tokens: int
    seconds: float


def distill(
    student: PreTrainedModel,
    teacher: Teacher | None,
    sequences_NT: PackedSequences,
    settings: DistillSettings,
    *,
    state_folder: Path,
    seed: int,
    stop_after_tokens: int | None = None,
    ranks: Ranks | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> DistillRecord:
    """Trains the student on the blocks in their order, in place.

    State is saved in `state_folder` as set; a call that finds a state there goes on from it, data order included.
    Sharded weights stay shards: `full_state` gathers them.

    Args:
        student: What is trained.
        teacher: What it learns from; None where the objective has no divergence.
        sequences_NT: Sequences of the whole stage, which set its schedule.
        settings: How to distill.
        state_folder: Where the resumable state lies.
        seed: Seed of all that is random.
        stop_after_tokens: Stop after so many of the stage's tokens and save the state, so that a later call goes on.
        ranks: The processes that take part; this one alone when None.
        callbacks: Trainer's, of whoever wants to watch.

    Raises:
        DivergedError: The loss stops being finite.
        MinitronError: There are fewer blocks than one batch, or the batch cannot be shared out.
    """
    ranks = ranks or Ranks(student.device.type)
    if len(sequences_NT) < settings.batch_size:
        raise MinitronError(
            f"distillation needs at least one batch of {settings.batch_size} blocks, got {len(sequences_NT)}"
        )
    max_steps = len(sequences_NT) * settings.epochs // settings.batch_size
    tokens_per_step = settings.batch_size * sequences_NT.shape[1]
    last_step = max_steps if stop_after_tokens is None else min(max_steps, max(1, stop_after_tokens // tokens_per_step))
    model = DistillationModel(
        student, teacher, settings.objective, hidden=settings.hidden, chunk_tokens=settings.chunk_tokens
    )
    if settings.gradient_checkpointing:
        student.activation_checkpointing_enable({"use_reentrant": False}, offload=settings.offload_activations)
    if settings.sharded:
        shard_blocks(model, blocks_of(student), device=ranks.device)
    trainer = DistillationTrainer(
        model=model,
        sharded=settings.sharded,
        args=training_arguments(
            settings, state_folder, max_steps=max_steps, ranks=ranks, seed=seed, routed=_is_routed(student)
        ),
        train_dataset=SequenceDataset(
            sequences_NT,
            epochs=settings.epochs,
            seed=seed,
            next_tokens=settings.objective.cross_entropy > 0,
        ),
        data_collator=collate,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    started = time.monotonic()
    history = _train(trainer, state_folder, last_step=last_step, sharded=settings.sharded, ranks=ranks)
    student.eval()
    record = DistillRecord(
        curve=tuple(
            (int(entry["step"]) * tokens_per_step, float(entry["loss"])) for entry in history if "loss" in entry
        ),
        tokens=last_step * tokens_per_step,
        seconds=time.monotonic() - started,
    )
    logger.info("distilled on %d tokens in %.1f s", record.tokens, record.seconds)
    return record


def training_arguments(
    settings: DistillSettings, state_folder: Path, *, max_steps: int, ranks: Ranks, seed: int, routed: bool = False
) -> TrainingArguments:
    """Trainer's arguments for a stage.

    Args:
        settings: How to distill.
        state_folder: Where states lie.
        max_steps: Steps of the whole stage.
        ranks: The processes that take part.
        seed: Seed of all that is random.
        routed: The student has experts, some of which a batch may leave without gradient.
    """
    micro, accumulation = _shares(settings, ranks.world_size)
    on_cpu = ranks.device.type == "cpu"
    decay: dict[str, Any] = {"lr_scheduler_type": "cosine"}
    if settings.min_learning_rate:
        decay = {
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr": settings.min_learning_rate},
        }
    return TrainingArguments(
        output_dir=str(state_folder),
        max_steps=max_steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        learning_rate=settings.learning_rate,
        **decay,
        warmup_steps=min(settings.warmup_steps, max_steps // 4),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        adam_beta2=settings.adam_beta2,
        optim=settings.optim,
        optim_args=settings.optim_args,
        bf16=settings.bf16,
        logging_steps=max(1, max_steps // POINTS_OF_CURVE),
        logging_nan_inf_filter=False,  # a diverged loss must be seen, not averaged away
        save_strategy="steps" if settings.save_steps else "no",
        save_steps=settings.save_steps or 1,
        report_to=list(settings.report_to),
        disable_tqdm=True,
        seed=seed,
        data_seed=seed,
        use_cpu=on_cpu,
        ddp_find_unused_parameters=routed,
        dataloader_pin_memory=not on_cpu,
        train_sampling_strategy="sequential",  # blending has shuffled the blocks already
        remove_unused_columns=False,
        label_names=["labels"],
    )


def _is_routed(student: PreTrainedModel) -> bool:
    return "moe" in getattr(student.config, "layers_block_type", ())


def _shares(settings: DistillSettings, processes: int) -> tuple[int, int]:
    if settings.batch_size % processes:
        raise MinitronError(
            f"batch_size must be a multiple of the processes, {processes}, got {settings.batch_size} blocks"
        )
    share = settings.batch_size // processes
    micro = settings.micro_batch_size or share
    if share % micro:
        raise MinitronError(f"micro_batch_size must divide a process's share of the batch, {share} blocks, got {micro}")
    return micro, share // micro


def _train(
    trainer: DistillationTrainer, state_folder: Path, *, last_step: int, sharded: bool, ranks: Ranks
) -> list[dict[str, float]]:
    ranks.barrier()  # so that all find the same states
    state = last_whole_state(state_folder, sharded=sharded)
    if state is not None and step_of(state) >= last_step:
        if sharded:
            load_weights(trainer.model, state)
        else:
            load_model(trainer.model, state / "model.safetensors")
        return read_history(state)
    with progress_bar() as progress:
        if ranks.is_main:
            trainer.add_callback(_ProgressCallback(progress, progress.add_task("distill", total=last_step)))
        if last_step < trainer.args.max_steps:
            trainer.add_callback(_StopCallback(last_step))
        trainer.add_callback(_DivergenceCallback())
        trainer.train(resume_from_checkpoint=None if state is None else str(state))
    history: list[dict[str, float]] = trainer.state.log_history
    return history


class _StopCallback(TrainerCallback):  # type: ignore[misc]
    def __init__(self, last_step: int) -> None:
        self._last_step = last_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= self._last_step:
            control.should_save = control.should_log = control.should_training_stop = True


class _DivergenceCallback(TrainerCallback):  # type: ignore[misc]
    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and not math.isfinite(logs.get("loss", 0.0)):
            raise DivergedError(
                f"the distillation loss must stay finite, it was {logs['loss']} at step {state.global_step}"
            )


class _ProgressCallback(TrainerCallback):  # type: ignore[misc]
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._progress.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self._progress.update(self._task, description=f"distill, loss {logs['loss']:.4f}")
