"""Models in shards in tests: put there as a teacher is, and given whole by torch's own gathering."""

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from minitron.distill.sharding import shard_blocks
from minitron.runtime.backbone import blocks_of


class Root(nn.Module):
    """What holds a model whose blocks are shards of their own."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits_BTV: torch.Tensor = self.model(input_ids_BT, use_cache=False).logits
        return logits_BTV


def sharded(model: PreTrainedModel) -> Root:
    """The model in shards over all processes, on CPU."""
    root = Root(model)
    shard_blocks(root, blocks_of(model), device=torch.device("cpu"))
    return root


def whole_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor whole: a module's own state, or for one in shards a copy in the first process alone."""
    if not any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        return module.state_dict()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, torch.Tensor] = get_model_state_dict(module, options=options)
    return state
