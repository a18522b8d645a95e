"""One stage of distillation: token blocks, teacher and student in; recovered student and its loss curve out."""

# N blocks, T tokens

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from minitron.distill.trainer import DistillationModel, DistillationTrainer
from minitron.hybrid.blocks import TokenBlocks
from minitron.hybrid.progress import progress_bar

logger = logging.getLogger(__name__)


class DivergedError(ValueError):
    """The loss stopped being finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillSettings:
    """How to distil.

    Attributes:
        batch_size: Blocks in one optimizer step.
        learning_rate: Peak learning rate.
        warmup_steps: Steps of linear warm-up before the cosine decay to zero.
        temperature: Softmax temperature of the loss.
        weight_decay: AdamW's weight decay, where Trainer applies it.
        max_grad_norm: Gradient norm that is clipped to.
        adam_beta2: AdamW's second decay rate.
        save_steps: Steps between resumable states; 0 saves none.
    """

    batch_size: int
    learning_rate: float
    warmup_steps: int = 60
    temperature: float = 1.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    adam_beta2: float = 0.95
    save_steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillRecord:
    """What distillation did.

    Attributes:
        curve: (tokens seen, mean KL in nats a token since the last point).
        tokens: Tokens trained on.
        seconds: Wall time of this process's share.
    """

    curve: tuple[tuple[int, float], ...]
    tokens: int
    seconds: float


def distill(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    blocks_NT: TokenBlocks,
    settings: DistillSettings,
    *,
    state_folder: Path,
    seed: int,
    stop_after_tokens: int | None = None,
) -> DistillRecord:
    """Trains the student on the blocks, once each and in their order, in place.

    State is saved in `state_folder` as set; a call that finds a state there goes on from it, data order included.

    Args:
        student: What is trained.
        teacher: What it learns from.
        blocks_NT: Blocks of the whole stage, which set its schedule.
        settings: How to distil.
        state_folder: Where the resumable state lies.
        seed: Seed of all that is random.
        stop_after_tokens: Stop after so many of the stage's tokens and save the state, so that a later call goes on.

    Raises:
        DivergedError: The loss stops being finite.
        ValueError: There are fewer blocks than one batch.
    """
    if len(blocks_NT) < settings.batch_size:
        raise ValueError(f"distillation needs at least one batch of {settings.batch_size} blocks, got {len(blocks_NT)}")
    max_steps = len(blocks_NT) // settings.batch_size
    tokens_per_step = settings.batch_size * blocks_NT.shape[1]
    last_step = max_steps if stop_after_tokens is None else min(max_steps, max(1, stop_after_tokens // tokens_per_step))
    logging_steps = max(1, max_steps // 40)
    trainer = DistillationTrainer(
        model=DistillationModel(student, teacher, temperature=settings.temperature),
        args=TrainingArguments(
            output_dir=str(state_folder),
            max_steps=max_steps,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=min(settings.warmup_steps, max_steps // 4),
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            adam_beta2=settings.adam_beta2,
            logging_steps=logging_steps,
            logging_nan_inf_filter=False,  # a diverged loss must be seen, not averaged away
            save_strategy="steps" if settings.save_steps else "no",
            save_steps=settings.save_steps or 1,
            save_total_limit=1,
            report_to=[],
            disable_tqdm=True,
            seed=seed,
            data_seed=seed,
            use_cpu=student.device.type == "cpu",
            dataloader_pin_memory=student.device.type != "cpu",
            train_sampling_strategy="sequential",  # blending has shuffled the blocks already
            remove_unused_columns=False,
            label_names=["labels"],
        ),
        train_dataset=_BlockDataset(blocks_NT),
        data_collator=_collate,
    )
    trainer.remove_callback(PrinterCallback)
    started = time.monotonic()
    state = _last_whole_state(state_folder)
    if state is not None and _step_of(state) >= last_step:
        load_model(trainer.model, state / "model.safetensors")
        history = json.loads((state / "trainer_state.json").read_text())["log_history"]
    else:
        with progress_bar() as progress:
            trainer.add_callback(_ProgressCallback(progress, progress.add_task("distil", total=last_step)))
            if last_step < max_steps:
                trainer.add_callback(_StopCallback(last_step))
            trainer.train(resume_from_checkpoint=None if state is None else str(state))
        history = trainer.state.log_history
    student.eval()
    record = DistillRecord(
        curve=tuple((entry["step"] * tokens_per_step, float(entry["loss"])) for entry in history if "loss" in entry),
        tokens=last_step * tokens_per_step,
        seconds=time.monotonic() - started,
    )
    logger.info("distilled on %d tokens in %.1f s", record.tokens, record.seconds)
    return record


def _last_whole_state(state_folder: Path) -> Path | None:
    # Trainer writes trainer_state.json last: a state without it was cut off while it was being written.
    states = [path for path in state_folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(states, key=_step_of) if states else None


def _step_of(state: Path) -> int:
    return int(state.name.rpartition("-")[2])


class _BlockDataset(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, blocks_NT: TokenBlocks) -> None:
        self._blocks_NT = blocks_NT

    def __len__(self) -> int:
        return len(self._blocks_NT)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.from_numpy(self._blocks_NT[index].astype(np.int64))}


def _collate(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    ids_BT = torch.stack([sample["input_ids"] for sample in samples])
    return {"input_ids": ids_BT, "labels": ids_BT}


class _StopCallback(TrainerCallback):  # type: ignore[misc]
    def __init__(self, last_step: int) -> None:
        self._last_step = last_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= self._last_step:
            control.should_save = control.should_log = control.should_training_stop = True


class _ProgressCallback(TrainerCallback):  # type: ignore[misc]
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._progress.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise DivergedError(
                    f"the distillation loss must stay finite, it was {logs['loss']} at step {state.global_step}"
                )
            self._progress.update(self._task, description=f"distil, KL {logs['loss']:.4f}")
