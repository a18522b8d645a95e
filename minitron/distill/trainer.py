"""Distillation through Hugging Face Trainer: teacher and student under one module, the loss normalised globally."""

# B samples, T tokens, D hidden

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer

from minitron.distill.loss import forward_kl


class DistillationModel(nn.Module):
    """Student and frozen teacher as one module whose output is the summed loss of a batch.

    Being one module, it is what DDP wraps, so that the student's gradients are synchronised. The teacher is held
    outside the module tree: it is neither trained nor saved.
    """

    def __init__(self, student: PreTrainedModel, teacher: PreTrainedModel, *, temperature: float) -> None:
        super().__init__()
        self.student = student
        self._teacher = (teacher.eval().requires_grad_(False),)
        self._temperature = temperature
        # What Trainer finds missing in a saved state on purpose: second names of tied tensors.
        self._keys_to_ignore_on_save = _second_names(self.state_dict())

    def tie_weights(self) -> None:
        """Ties the student's head to its embeddings again, where they are one, after a state was loaded."""
        self.student.tie_weights()

    @property
    def teacher(self) -> PreTrainedModel:
        """The frozen teacher."""
        return self._teacher[0]

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Summed KL over the tokens whose label is not -100; divide by their number in the global batch."""
        with torch.no_grad():
            teacher_hidden_BTD = _hidden_states(self.teacher, input_ids)
        student_hidden_BTD = _hidden_states(self.student, input_ids)
        return forward_kl(
            student_hidden_BTD.flatten(0, 1),
            _head(self.student),
            teacher_hidden_BTD.flatten(0, 1),
            _head(self.teacher),
            temperature=self._temperature,
            mask_N=(labels != -100).flatten(),
        )


class DistillationTrainer(Trainer):  # type: ignore[misc]
    """HF Trainer whose loss is the mean KL over all counted tokens of the global batch.

    NemotronH's forward takes **kwargs, so Trainer leaves the division by the number of items to the loss. Dividing the
    sum by `num_items_in_batch` makes one large batch, accumulation and several ranks agree.
    """

    def __init__(self, *, model: DistillationModel, **kwargs: Any) -> None:
        super().__init__(model=model, **kwargs)
        self.model_accepts_loss_kwargs = True

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        # A head that is tied to the embeddings is one tensor under two names, which safetensors refuses to write twice.
        state = self.model.state_dict() if state_dict is None else state_dict
        again = set(_second_names(state))
        super()._save(output_dir, {name: tensor for name, tensor in state.items() if name not in again})

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean loss of the global batch, times the ranks that DDP will average over."""
        loss_sum = model(**inputs)
        items = (inputs["labels"] != -100).sum() if num_items_in_batch is None else num_items_in_batch
        ranks = 1 if num_items_in_batch is None else self.accelerator.num_processes
        loss = loss_sum / items * ranks
        return (loss, {}) if return_outputs else loss


def _second_names(state: Mapping[str, torch.Tensor]) -> list[str]:
    first = {(tensor.data_ptr(), tensor.shape): name for name, tensor in reversed(list(state.items()))}
    return [name for name, tensor in state.items() if first[tensor.data_ptr(), tensor.shape] != name]


def _hidden_states(model: PreTrainedModel, ids_BT: torch.Tensor) -> torch.Tensor:
    backbone: Any = model.base_model
    hidden_BTD: torch.Tensor = backbone(ids_BT, use_cache=False).last_hidden_state
    return hidden_BTD


def _head(model: PreTrainedModel) -> torch.Tensor:
    head: Any = model.get_output_embeddings()
    weight_VD: torch.Tensor = head.weight
    return weight_VD
