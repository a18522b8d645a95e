"""Hugging Face Trainer for distillation: the loss normalized over the whole global batch, shards saved as shards."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from minitron.distill.sharding import load_shards, save_shards
from minitron.distill.training.model import PARTS, DistillationModel
from minitron.distill.training.resumed import reading_state
from minitron.distill.training.states import keep_state, second_names
from minitron.errors import NotFiniteError

SCHEDULER_FILE = "scheduler.pt"


class DivergedError(NotFiniteError):
    """The loss stopped being finite."""


class DistillationTrainer(Trainer):  # type: ignore[misc]
    """Trainer whose loss is the mean over all counted tokens of the global batch.

    Dividing the sum by `num_items_in_batch` makes one large batch, accumulation and several processes agree. Left to
    itself Trainer would average over neither, since NemotronH's forward takes **kwargs.

    Args:
        model: Student and teacher.
        sharded: The model's weights are shards already, so that Trainer neither copies nor wraps it.
        kwargs: Trainer's own.
    """

    def __init__(self, *, model: DistillationModel, sharded: bool = False, **kwargs: Any) -> None:
        # One process drives one device; Trainer would spread it over all that it sees.
        kwargs["args"]._n_gpu = min(1, kwargs["args"].n_gpu)
        super().__init__(model=model, **kwargs)
        self.model_accepts_loss_kwargs = True
        self.sharded = sharded
        # Trainer's own way for a model that comes sharded; set late, since it refuses to save such models.
        self.is_distributed_loading_by_transformers = sharded
        self._parts = torch.zeros(len(PARTS))
        self._micro_batches = 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """This process's share of the mean loss, times the processes, over which gradients are averaged."""
        assert num_items_in_batch is not None
        sums = model(**inputs)
        # A global batch of prompts alone counts no token: its loss is 0, and no gradient.
        means = sums / torch.as_tensor(num_items_in_batch).clamp(min=1) * self.accelerator.num_processes
        self._parts = self._parts.to(means.device) + means.detach()
        self._micro_batches += 1
        return (means[0], {}) if return_outputs else means[0]

    def log(self, logs: dict[str, float], *args: object, **kwargs: object) -> None:
        """Logs the parts of the loss beside it, each as a mean since the last time."""
        if "loss" in logs:
            steps = max(1, self._micro_batches / self.args.gradient_accumulation_steps)
            parts = self.accelerator.reduce(self._parts, reduction="mean") / steps
            logs |= {name: float(part) for name, part in zip(PARTS[1:], parts[1:], strict=True)}
            self._parts, self._micro_batches = torch.zeros_like(self._parts), 0
        super().log(logs, *args, **kwargs)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices and convolutions; norms, biases and Mamba's A_log, D and dt_bias are not decayed."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        # Each micro-batch's gradients are reduced at once: put off, every process would hold them whole.
        return nullcontext()

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        # A state of a diverged student would take the place of the last good one.
        diverged = (~torch.isfinite(self._parts)).any().float()
        if float(self.accelerator.reduce(diverged, reduction="sum")) > 0:
            raise DivergedError(
                f"the distillation loss must stay finite, it was not before step {self.state.global_step}"
            )
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            keep_state(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}", sharded=self.sharded)
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the weights; shards go with the optimizer's state."""
        if self.sharded:
            Path(output_dir or self.args.output_dir).mkdir(parents=True, exist_ok=True)
        else:
            super().save_model(output_dir, _internal_call=_internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        # A head that is tied to the embeddings is one tensor under two names, which safetensors refuses to write twice.
        state = self.model.state_dict() if state_dict is None else state_dict
        again = set(second_names(state))
        super()._save(output_dir, {name: tensor for name, tensor in state.items() if name not in again})

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_shards(self.model, self.optimizer.optimizer, Path(output_dir))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self.sharded:  # shards are loaded with the optimizer's state
            with reading_state(resume_from_checkpoint):
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with reading_state(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading_state(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading_state(checkpoint):
            if not self.sharded or checkpoint is None:
                super()._load_optimizer_and_scheduler(checkpoint)
                return
            load_shards(self.model, self.optimizer.optimizer, Path(checkpoint))
            self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_FILE, weights_only=True))
