"""Trials of a learning rate: a few optimizer steps on a training's first batches, whose outcome is thrown away."""

# B sequences of a process's share of a batch, T tokens

import math
from collections.abc import Iterator

import torch
from torch import distributed, nn
from torch.utils.data import Dataset

from minitron.distill.dataset import NOT_COUNTED, collate
from minitron.distill.training.trainer import DistillationTrainer
from minitron.distributed import Ranks

LEAST_STEPS, MOST_STEPS = 8, 32
SHARE_OF_STEPS = 0.02  # of the training's steps
WARMUP_SHARE = 0.25


class Trials:
    """Short trainings with Trainer's model, optimizer, batches and clipping, and a rate that is held after a warm-up.

    Trainer itself would wrap and prepare the model for each; the steps are few and simple enough to be made here.

    Args:
        trainer: Whose training is tried; it must not have begun.
        ranks: The processes.

    Attributes:
        steps: Optimizer steps of a trial.
        ranks: The processes.
    """

    def __init__(self, trainer: DistillationTrainer, ranks: Ranks) -> None:
        self._trainer, self.ranks = trainer, ranks
        wanted = round(SHARE_OF_STEPS * trainer.args.max_steps)
        self.steps = min(max(LEAST_STEPS, min(wanted, MOST_STEPS)), trainer.args.max_steps)

    def run(self, rate: float) -> bool:
        """Trains in place, with all random numbers as before afterwards; whether the loss stayed finite.

        The weights are left as the trial ends; all processes must call it.
        """
        trainer = self._trainer
        devices = [trainer.args.device] if trainer.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            trainer.create_optimizer()
            optimizer, trainer.optimizer = trainer.optimizer, None
            trainer.model.train()
            warmup = max(1, round(WARMUP_SHARE * self.steps))
            went_well = all(
                self._step(optimizer, step, rate * min(1, (step + 1) / warmup)) for step in range(self.steps)
            )
            trainer.model.zero_grad()
        return went_well

    def _step(self, optimizer: torch.optim.Optimizer, step: int, rate: float) -> bool:
        trainer = self._trainer
        for group in optimizer.param_groups:
            group["lr"] = rate
        batches = list(self._micro_batches(step))
        counted = float(self.ranks.sum(torch.tensor(float(sum(_counted(batch) for batch in batches)))))
        total = torch.zeros(())
        for batch in batches:
            with trainer.accelerator.autocast():
                loss = trainer.model(**batch)[0] / max(counted, 1)
            # Shards' gradients are averaged over the processes as they are reduced, whole ones are summed below.
            (loss * self.ranks.world_size if trainer.sharded else loss).backward()
            total += loss.detach().cpu()
        if not trainer.sharded:
            self._sum_gradients()
        norm = nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        optimizer.step()
        optimizer.zero_grad()
        return math.isfinite(float(self.ranks.sum(total))) and math.isfinite(float(norm))

    def _micro_batches(self, step: int) -> Iterator[dict[str, torch.Tensor]]:
        arguments, dataset = self._trainer.args, self._trainer.train_dataset
        micro, accumulation = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
        assert isinstance(dataset, Dataset)
        for turn in range(step * accumulation, (step + 1) * accumulation):  # dealt out as Trainer does
            start = (turn * self.ranks.world_size + self.ranks.rank) * micro
            batch = collate([dataset[position] for position in range(start, start + micro)])
            yield {name: tensor.to(arguments.device) for name, tensor in batch.items()}

    def _sum_gradients(self) -> None:
        if self.ranks.world_size == 1:
            return
        for parameter in self._trainer.model.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:  # experts that saw no token here, though perhaps elsewhere
                    parameter.grad = torch.zeros_like(parameter)
                distributed.all_reduce(parameter.grad)


def _counted(batch: dict[str, torch.Tensor]) -> int:
    return int((batch["labels"] != NOT_COUNTED).sum())
