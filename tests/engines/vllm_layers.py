"""What vLLM's quantized linear layers read and gave, and which of vLLM's own operators ran, in a file."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode
from vllm import LLM
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod


class Operators(TorchDispatchMode):
    """Names of the operators of vLLM's library that are called while it lasts."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "_C":
            self.names.add(func._schema.name.removeprefix("_C::"))
        return func(*args, **(kwargs or {}))


@contextmanager
def recorded_layers(engine: LLM, file: str) -> Iterator[None]:
    """Writes `NAME.input` and `NAME.output` [tokens, columns] of quantized linear layers, and the operators' names."""
    tensors: dict[str, list[torch.Tensor]] = defaultdict(list)

    def watch(model: torch.nn.Module) -> None:
        for name, layer in model.named_modules():
            if isinstance(layer, LinearBase) and not isinstance(layer.quant_method, UnquantizedLinearMethod):
                layer.register_forward_hook(lambda _, args, result, name=name: record(name, args[0], result))

    def record(name: str, read: torch.Tensor, result: Any) -> None:
        gave = result[0] if isinstance(result, tuple) else result
        for what, tensor in (("input", read), ("output", gave)):
            tensors[f"{name}.{what}"].append(tensor.detach().flatten(0, -2).clone())

    engine.apply_model(watch)
    with Operators() as operators:
        yield
    save_file(
        {name: torch.cat(parts) for name, parts in tensors.items()},
        file,
        metadata={"operators": " ".join(sorted(operators.names))},
    )
