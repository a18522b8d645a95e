"""A nested student that is run on slices of the largest one's weights, through which gradients flow back."""

# B sequences of a batch, T tokens a sequence, D hidden, V vocabulary

from collections.abc import Mapping

import torch
from torch.func import functional_call
from transformers import PreTrainedModel

from minitron.checkpoints.names import gather_state, read_place
from minitron.checkpoints.places import model_places
from minitron.distill.nested.students import TrainedStudent
from minitron.models.config import config_for_shape, shape_from_config
from minitron.models.slicing import TensorCut, cut_tensor, tensor_cuts
from minitron.runtime.backbone import backbone_of, divided_for_logits, family_of
from minitron.runtime.building import config_of, empty_like


class SlicedStudent:
    """A student without weights of its own.

    The axis map that cuts a checkpoint cuts here, too: what is computed is what the extracted student computes.

    Args:
        largest: The model that holds the weights.
        trained: What the student has of it, and its correction.

    Raises:
        ShapeError: The student exceeds the largest one somewhere.
    """

    def __init__(self, largest: PreTrainedModel, trained: TrainedStudent) -> None:
        config, student = config_of(largest), trained.student
        shape = shape_from_config(config)
        self._cuts = tuple(tensor_cuts(shape, student.keep(shape)))
        self._correction = {name: tensor.to(largest.device) for name, tensor in trained.correction.items()}
        self._sources, self._places = model_places(shape), model_places(student.shape)
        self._head = family_of(largest).name_in_memory(student.shape.head_tensor)
        self._backbone_prefix = family_of(largest).prefix_in_memory
        # Only its code is used: its weights are on torch's meta device.
        self._template = empty_like(largest, config_for_shape(config, student.shape), student.shape)

    def weights(self, shared: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Every tensor of the student by its name in memory, as differentiable slices.

        Args:
            shared: The largest student's tensors by their names in memory.
        """
        return gather_state(((cut.name, self._tensor(cut, shared)) for cut in self._cuts), self._places)

    def _tensor(self, cut: TensorCut, shared: Mapping[str, torch.Tensor]) -> torch.Tensor:
        sliced = cut_tensor(read_place(shared, self._sources[cut.source]), cut)
        return corrected(sliced, self._correction.get(cut.name))

    def last_hidden(
        self, shared: Mapping[str, torch.Tensor], input_ids_BT: torch.Tensor, *, training: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the head's product gives logits of, [B, T, D], and the head, [V, D].

        Args:
            shared: The largest student's tensors by their names in memory.
            input_ids_BT: Token ids.
            training: The mode to compute in.
        """
        state, prefix = self.weights(shared), self._backbone_prefix
        inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        backbone = backbone_of(self._template).train(training)
        output = functional_call(backbone, inside, (input_ids_BT,), {"use_cache": False}, strict=False)
        return divided_for_logits(self._template, output.last_hidden_state), state[self._head]


def corrected(sliced: torch.Tensor, correction: torch.Tensor | None) -> torch.Tensor:
    """A slice plus its correction, added in fp32 at least, in the slice's dtype."""
    if correction is None:
        return sliced
    wide = sliced if sliced.dtype == torch.float64 else sliced.float()
    return (wide + correction).to(sliced.dtype)
