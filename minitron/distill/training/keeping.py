"""Keeps the best state of a training: measured on validation text as it goes, its weights beside the state on disk."""

import math
import time
from collections.abc import Sequence

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from minitron.distill.training.snapshots import Snapshots
from minitron.distill.training.trainer import DistillationTrainer
from minitron.distill.training.validation import Validation

MEASURED = "eval_loss"  # Trainer's name for it, by which trackers show it


class KeepBestCallback(TrainerCallback):  # type: ignore[misc]
    """Measures at the start, every so many steps and at the end, and keeps the weights of the best state.

    What is measured goes into Trainer's log, which is saved with each resumable state; so a training that resumes knows
    what was measured up to there and nothing of what it will see again. Weights stay until a state is saved that has
    seen better ones.

    Args:
        trainer: The trainer.
        validation: What measures.
        snapshots: Where weights are kept; None keeps none.
        every_steps: Steps between measurements.

    Attributes:
        seconds: Time that the measurements took.
    """

    def __init__(
        self, trainer: DistillationTrainer, validation: Validation, snapshots: Snapshots | None, *, every_steps: int
    ) -> None:
        self._trainer, self._validation, self._snapshots = trainer, validation, snapshots
        self._every_steps = every_steps
        self._in_state = 0  # the best step that the last saved state has seen
        self.seconds = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Trainer's event before the first step, or the first one after a resumed state."""
        if state.global_step == 0:
            self._measure(state)
        self._in_state = best_step(state.log_history)
        self._forget({self._in_state})

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Trainer's event at the end of an optimizer step."""
        if state.global_step % self._every_steps == 0 or state.global_step == state.max_steps:
            should_log = control.should_log
            self._measure(state)
            control.should_log = should_log  # which Trainer takes for done when it has logged anything
            self._forget({best_step(state.log_history), self._in_state})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Trainer's event when a state is whole."""
        self._in_state = best_step(state.log_history)
        self._forget({self._in_state})

    def _measure(self, state: TrainerState) -> None:
        started = time.monotonic()
        self._trainer.log({MEASURED: self._validation.loss()})
        is_best = best_step(state.log_history) == state.global_step
        if self._snapshots is not None and is_best and state.global_step < state.max_steps:  # the end is in memory
            self._snapshots.save(state.global_step)
        self.seconds += time.monotonic() - started

    def _forget(self, steps: set[int]) -> None:
        if self._snapshots is not None:
            self._snapshots.keep_only(steps)


def measured(history: Sequence[dict[str, float]]) -> list[tuple[int, float]]:
    """(step, loss) of what was measured on validation text, inf where it was not finite."""
    return [(int(entry["step"]), float(entry[MEASURED])) for entry in history if MEASURED in entry]


def best_step(history: Sequence[dict[str, float]]) -> int:
    """The step of the lowest loss on validation text, the first of equal ones; 0 where nothing was measured."""
    return min(measured(history), key=lambda point: (point[1], point[0]), default=(0, math.inf))[0]
