"""Tokens and hours to a KL, from the curves of a run's distillation and of others."""

from collections.abc import Sequence
from pathlib import Path

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.distill.settings import AUTO
from minitron.distill.training.arguments import warmup_steps
from minitron.distill.training.record import DistillRecord
from minitron.errors import MinitronError
from minitron.estimate.devices import find_device
from minitron.estimate.training.operations import device_hours, training_operations
from minitron.forecast.record import RecoveryForecast
from minitron.forecast.recovery import FARTHEST, Curve, fit_recovery
from minitron.forecast.schedule import RateSchedule
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.training import read_training_record
from minitron.recipe.distill import DistillSection
from minitron.recipe.recipe import Recipe


def forecast_recovery(
    recipe: Recipe, run: RunFolder, target_kl: float, others: Sequence[Path] = ()
) -> RecoveryForecast:
    """Tokens and hours that a distillation takes to a KL on validation text.

    It is one of the same student with the same peak rate, batch and schedule, which ends where its tokens end. Rates
    that are not reached, and tokens beyond four times those seen, are refused by leaving them out.

    Args:
        recipe: The recipe as stages after `vocabulary` follow it.
        run: The run, whose distillation has ended.
        target_kl: Nats a token.
        others: Run folders of the same student, distilled on other numbers of tokens by the same settings.

    Raises:
        MinitronError: Nothing has been distilled, or what the distillation minimized is not the KL.
    """
    section = _only_phase(recipe)
    records = [_record(folder) for folder in (run, *map(RunFolder, others))]
    found = fit_recovery([_curve(record, section) for record in records])
    low, tokens, high = found.tokens_to(target_kl)
    rate = tokens_per_s(records[0])
    best = found.predict(found.most_tokens)
    outside = None
    if tokens is None:
        outside = (
            f"a KL of {target_kl:g} is not reached within {found.most_tokens:,.0f} tokens, {FARTHEST:g} times "
            f"those seen, where {best.predicted:.4f} is forecast; beyond that nothing is"
        )
    return RecoveryForecast(
        target_kl=target_kl,
        low_tokens=_whole(low),
        tokens=_whole(tokens),
        high_tokens=_whole(high),
        seen_tokens=round(found.tokens),
        most_tokens=round(found.most_tokens),
        best_kl=best,
        floor=found.law.floor,
        hours=None if tokens is None else tokens / rate / 3600,
        gpu_hours=None if tokens is None else _gpu_hours(recipe, run, tokens),
        tokens_per_s=rate,
        outside=outside,
    )


def tokens_per_s(record: DistillRecord) -> float:
    """Tokens a second that a distillation trained on, without what validation and the search for a rate took."""
    watched = 0.0 if record.validation is None else record.validation.seconds
    searched = 0.0 if record.rate is None else record.rate.seconds
    return record.tokens / max(record.seconds - watched - searched, 1e-9)


def _only_phase(recipe: Recipe) -> DistillSection:
    section, *more = recipe.distill.curriculum
    if more:
        raise MinitronError("a forecast of a recovery needs one schedule, the recipe's curriculum has several phases")
    loss = section.loss
    if loss.divergence != "forward_kl" or loss.temperature != 1 or loss.cross_entropy:
        raise MinitronError(
            "a forecast of a recovery needs a curve of the forward KL, the recipe minimizes something else: "
            f"divergence {loss.divergence}, temperature {loss.temperature:g}, cross_entropy {loss.cross_entropy:g}"
        )
    return section


def _record(run: RunFolder) -> DistillRecord:
    if not run.record.is_file():
        raise MinitronError(f"a forecast of a recovery needs a distillation, {run.path} has none; run `distill` first")
    return read_training_record(run.record)


def _curve(record: DistillRecord, section: DistillSection) -> Curve:
    if record.validation is None:
        raise MinitronError("a forecast of a recovery needs a curve on validation text, the record has none")
    steps = record.tokens // (section.batch_size * section.seq_len)
    peak = record.rate.rate if record.rate is not None else section.learning_rate
    assert peak != AUTO
    schedule = RateSchedule(
        tokens=record.tokens,
        warmup=warmup_steps(section.warmup_steps, steps) / max(1, steps),
        floor=min(1.0, section.min_learning_rate / float(peak)),
    )
    return Curve(points=tuple((float(tokens), kl) for tokens, kl in record.validation.curve), schedule=schedule)


def _gpu_hours(recipe: Recipe, run: RunFolder, tokens: float) -> float | None:
    devices, section = recipe.devices, recipe.distill
    if devices is None:
        return None
    student, teacher = (open_checkpoint(folder).shape for folder in (run.student, Path(recipe.teacher)))
    operations = tokens * training_operations(
        student,
        section.seq_len,
        teacher=None if section.teacher.mode == "cached" else teacher,
        checkpointing=section.gradient_checkpointing,
    )
    return device_hours(operations, find_device(devices.gpu), mfu=devices.mfu)


def _whole(tokens: float | None) -> int | None:
    return None if tokens is None else round(tokens)
