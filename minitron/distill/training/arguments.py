"""Trainer's arguments for a phase of training."""

import logging
from pathlib import Path

from transformers import TrainingArguments

from minitron.distill.settings import AUTO, TrainingSettings
from minitron.distributed import Ranks
from minitron.errors import MinitronError

logger = logging.getLogger(__name__)

CURVE_POINTS = 40
MOST_WARMUP = 4  # one step in so many
PLACEHOLDER = 1e-4  # until the rate is searched for
ADAM_BETA2 = 0.95


def training_arguments(
    settings: TrainingSettings, state_folder: Path, *, max_steps: int, ranks: Ranks, seed: int, routed: bool = False
) -> TrainingArguments:
    """Trainer's arguments for a phase.

    Args:
        settings: How to distill.
        state_folder: Where states lie.
        max_steps: Steps of the whole phase.
        ranks: The processes that take part.
        seed: Seed of all that is random.
        routed: The student has experts, some of which a batch may leave without gradient.
    """
    micro, accumulation = _shares(settings, ranks.world_size // settings.context_parallel)
    on_cpu = ranks.device.type == "cpu"
    floor = settings.min_learning_rate
    return TrainingArguments(
        output_dir=str(state_folder),
        max_steps=max_steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        learning_rate=PLACEHOLDER if settings.learning_rate == AUTO else settings.learning_rate,
        lr_scheduler_type="cosine_with_min_lr" if floor else "cosine",
        lr_scheduler_kwargs={"min_lr": floor} if floor else None,
        warmup_steps=_told_warmup(settings.warmup_steps, max_steps, ranks),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        adam_beta2=ADAM_BETA2,
        optim=settings.optim,
        optim_args=settings.optim_args,
        bf16=settings.precision in ("bf16", "fp8"),  # what is not in 8 bits is in 16
        logging_steps=max(1, max_steps // CURVE_POINTS),
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
        train_sampling_strategy="sequential",  # blending has shuffled the sequences already
        remove_unused_columns=False,
        label_names=["labels"],
    )


def warmup_steps(wanted: int, max_steps: int) -> int:
    """Steps of warm-up that a training of so many steps has: at most a quarter of them."""
    return min(wanted, max_steps // MOST_WARMUP)


def _told_warmup(wanted: int, max_steps: int, ranks: Ranks) -> int:
    steps = warmup_steps(wanted, max_steps)
    if steps < wanted and ranks.is_main:
        logger.warning(
            "warmup_steps is cut from %d to %d, a quarter of the %d steps that there are", wanted, steps, max_steps
        )
    return steps


def _shares(settings: TrainingSettings, groups: int) -> tuple[int, int]:
    if settings.batch_size % groups:
        whose = "groups of processes" if settings.context_parallel > 1 else "processes"
        raise MinitronError(
            f"batch_size must be a multiple of the {whose}, {groups}, got {settings.batch_size} sequences"
        )
    share = settings.batch_size // groups
    micro = settings.micro_batch_size or share
    if share % micro:
        raise MinitronError(
            f"micro_batch_size must divide a process's share of the batch, {share} sequences, got {micro}"
        )
    return micro, share // micro
