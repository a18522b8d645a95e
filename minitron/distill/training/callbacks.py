"""Trainer callbacks: stop early, stop on divergence, show progress."""

import math

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


class DivergenceCallback(TrainerCallback):  # type: ignore[misc]
    """Raises as soon as the loss is not finite."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Trainer's event when it logs."""
        if logs and not math.isfinite(logs.get("loss", 0.0)):
            raise DivergedError(
                f"the distillation loss must stay finite, it was {logs['loss']} at step {state.global_step}"
            )


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
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
            self._progress.update(self._task, description=f"distill, loss {logs['loss']:.4f}")
