"""Matrix products of blocks in 8-bit floats while a model is trained: where that can be, of which layers, and back.

torchao scales whole matrices at every product, weights and inputs to e4m3 and gradients to e5m2. Weights, and what the
backward pass keeps of inputs, stay as wide as they are. Source: arXiv 2209.05433; torchao 0.18, `torchao.float8`.
"""

import importlib.util
import logging

import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.dtypes import FLOAT8_MULTIPLE
from minitron.errors import MinitronError
from minitron.runtime.backbone import blocks_of, family_of

logger = logging.getLogger(__name__)

LEAST_CAPABILITY = (8, 9)


def require_float8(device: str | torch.device) -> None:
    """Refuses a device without 8-bit floating-point products, or an environment without torchao.

    Raises:
        MinitronError: The device is no CUDA device of capability 8.9 or above, or torchao is not installed.
    """
    device = torch.device(device)
    mend = "use precision bf16"
    found = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if found is None or found < LEAST_CAPABILITY:
        got = device.type if found is None else f"one of {found[0]}.{found[1]}"
        raise MinitronError(f"precision fp8 needs a CUDA device of capability 8.9 or above, got {got}; {mend}")
    if importlib.util.find_spec("torchao") is None:
        raise MinitronError(
            f"precision fp8 needs torchao, it is not installed: pip install 'minitron[lowmem]', or {mend}"
        )


def float8_linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The layers of a model's blocks whose products can be in 8-bit floats, named `BLOCK.NAME`.

    All linear layers whose sizes are multiples of 16, but those that choose experts. Embeddings, head, norms and
    convolutions are none of them, nor are experts that lie in one stacked tensor.
    """
    return {name: layer for name, layer in _linears(model).items() if _fits(layer)}


def multiply_in_float8(model: PreTrainedModel, *, emulate: bool = False) -> None:
    """Puts layers of torchao's in the place of a model's linear ones, with the same weights, in place.

    Args:
        model: The model, before its weights are put into shards.
        emulate: Round as 8-bit floats and multiply as wide ones, on any device: what tests compare.

    Raises:
        MinitronError: No layer has sizes for it.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    found, all_linear = float8_linears(model), _linears(model)
    if not found:
        raise MinitronError(
            f"precision fp8 needs linear layers whose sizes are multiples of {FLOAT8_MULTIPLE}, no block of this model "
            "has one; use precision bf16"
        )
    chosen = set(map(id, found.values()))
    for block in blocks_of(model):
        convert_to_float8_training(
            block,
            module_filter_fn=lambda layer, name: id(layer) in chosen,
            config=Float8LinearConfig(emulate=emulate),
        )
    wide = sorted({name.rpartition(".")[2] for name in all_linear.keys() - found.keys()})
    logger.info(
        "fp8: products of %d of %d linear layers of blocks%s",
        len(found),
        len(all_linear),
        f"; sizes that are no multiples of {FLOAT8_MULTIPLE}: {', '.join(wide)}" if wide else "",
    )


def multiply_as_before(model: PreTrainedModel) -> None:
    """Puts plain linear layers, with the trained weights, in the place of torchao's, in place."""
    from torchao.float8.float8_linear import Float8Linear

    for block in blocks_of(model):
        for name, layer in list(block.named_modules()):
            if isinstance(layer, Float8Linear):
                with torch.device("meta"):
                    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
                plain.weight, plain.bias = layer.weight, layer.bias
                plain.train(layer.training)
                block.set_submodule(name, plain)


def _linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Linear layers of blocks that do not choose experts."""
    tensors = [spec for specs in family_of(model).block_tensors.values() for spec in specs]
    routers = {(spec.in_memory or spec.name).removesuffix(".weight") for spec in tensors if spec.routes}
    return {
        f"{number}.{name}": layer
        for number, block in enumerate(blocks_of(model))
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear) and name not in routers
    }


def _fits(layer: nn.Linear) -> bool:
    return layer.in_features % FLOAT8_MULTIPLE == 0 and layer.out_features % FLOAT8_MULTIPLE == 0
