"""Watches a training by validation text: searches its rate, measures it, keeps its best state, and says how it went."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from minitron.distill.settings import AUTO, TrainingSettings
from minitron.distill.training.keeping import KeepBestCallback, best_step, measured
from minitron.distill.training.rate_search import found_rate, search_rate
from minitron.distill.training.record import RateSearch, ValidationRecord
from minitron.distill.training.snapshots import Snapshots
from minitron.distill.training.trainer import DistillationTrainer
from minitron.distill.training.trials import Trials
from minitron.distill.training.validation import ForwardPasses, Validation, ValidationText, steps_between
from minitron.distributed import Ranks
from minitron.runtime.context_parallel.part import TextPart

logger = logging.getLogger(__name__)


class Watch:
    """What validation text does for one training.

    Args:
        trainer: Whose training.
        text: The text.
        settings: How to train.
        folder: Where the training's resumable state lies.
        ranks: The processes.
        part: What this process holds of each sequence.

    Attributes:
        callback: Measures and keeps as the training goes.
    """

    def __init__(
        self,
        trainer: DistillationTrainer,
        text: ValidationText,
        settings: TrainingSettings,
        folder: Path,
        ranks: Ranks,
        part: TextPart,
    ) -> None:
        self._trainer, self._folder, self._ranks = trainer, folder, ranks
        self._keeps_best, self._diverged = settings.keep == "best", False
        self._sequences = len(text.sequences_NT)
        self._validation = Validation(
            text,
            trainer.model,
            ranks,
            ForwardPasses(
                batch_size=trainer.args.per_device_train_batch_size,
                part=part,
                sharded=trainer.sharded,
                autocast=trainer.accelerator.autocast,
            ),
        )
        self._snapshots = Snapshots(folder, trainer.model, ranks, sharded=trainer.sharded)
        every_steps = settings.validation.every_steps or steps_between(
            self._sequences, max_steps=trainer.args.max_steps, batch_size=settings.batch_size
        )
        self.callback = KeepBestCallback(
            trainer, self._validation, self._snapshots if self._keeps_best else None, every_steps=every_steps
        )

    def set_rate(self, settings: TrainingSettings) -> RateSearch | None:
        """Searches for the rate, or takes what an earlier attempt found, and sets it; None where a number is given."""
        if settings.learning_rate != AUTO:
            return None
        search = found_rate(self._folder, self._ranks)
        if search is None:
            trials = Trials(self._trainer, self._ranks)
            floor = settings.min_learning_rate
            search = search_rate(trials, self._validation, self._snapshots, self._folder, floor=floor)
            if not self._keeps_best:
                self._snapshots.keep_only(set())  # the start is not gone back to any more
        self._trainer.args.learning_rate = search.rate
        return search

    def survives(self, history: Sequence[dict[str, float]]) -> bool:
        """Whether a training that diverged has a kept state that was measured before."""
        self._diverged = self._keeps_best and any(math.isfinite(loss) for _, loss in measured(history))
        return self._diverged

    def finish(self, history: Sequence[dict[str, float]], *, last_step: int, tokens_per_step: int) -> ValidationRecord:
        """Puts the kept weights in place and says how the training went. All processes must call it."""
        points = dict(measured(history))
        kept = best_step(history) if self._keeps_best else last_step
        if self._keeps_best and (self._diverged or kept != last_step):
            self._snapshots.load(kept)
        start, end = points.get(0, math.inf), math.inf if self._diverged else points.get(last_step)
        worse = end is not None and end > start
        if worse:
            self._say_worse(start, end or math.inf, points[kept], kept * tokens_per_step)
        return ValidationRecord(
            curve=tuple((step * tokens_per_step, loss) for step, loss in points.items() if math.isfinite(loss)),
            sequences=self._sequences,
            kept_tokens=kept * tokens_per_step,
            worse=worse,
            seconds=self.callback.seconds,
        )

    def _say_worse(self, start: float, end: float, kept_loss: float, kept_tokens: int) -> None:
        if not self._ranks.is_main:
            return
        ended = "diverged" if self._diverged else f"ended at {end:.4f} nats a token"
        state = f"its state after {kept_tokens:,} tokens" if kept_tokens else "the start"
        kept = f"{state} is kept, at {kept_loss:.4f}" if self._keeps_best else "it is kept, as keep: last says"
        logger.warning(
            "the training %s on validation text, worse than its start at %.4f: %s; lower learning_rate",
            ended,
            start,
            kept,
        )
