"""Trainer callbacks: stop early, stop on divergence, show progress."""

import math
from abc import ABC, abstractmethod

from rich.progress import Progress, TaskID
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from minitron.distill.training.trainer import DivergedError


class StopCallback(TrainerCallback):  # type: ignore[misc]
    """Stops after a step, with its state saved."""

    def __init__(self, last_step: int) -> None:
        self._last_step = last_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Trainer's event at the end of an optimizer step."""
        if state.global_step >= self._last_step:
            control.should_save = control.should_log = control.should_training_stop = True


class LossCallback(TrainerCallback, ABC):  # type: ignore[misc]
    """Is told of every loss that is logged."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Trainer's event when it logs."""
        if logs and "loss" in logs:
            self.on_loss(logs["loss"], state.global_step)

    @abstractmethod
    def on_loss(self, loss: float, step: int) -> None:
        """A loss, and the optimizer step after which it was logged."""


class DivergenceCallback(LossCallback):
    """Raises as soon as the loss is not finite."""

    def on_loss(self, loss: float, step: int) -> None:
        """Checks it."""
        if not math.isfinite(loss):
            raise DivergedError(f"the distillation loss must stay finite, it was {loss} at step {step}")


class ProgressCallback(LossCallback):
    """Moves a progress bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task, self._step = progress, task, 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Trainer's event before the first step, or the first one after a resumed state."""
        self._step = state.global_step
        self._progress.update(self._task, completed=self._step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Trainer's event at the end of an optimizer step."""
        self._progress.advance(self._task, state.global_step - self._step)
        self._step = state.global_step

    def on_loss(self, loss: float, step: int) -> None:
        """Shows it beside the bar."""
        self._progress.update(self._task, description=f"distill, loss {loss:.4f}")
