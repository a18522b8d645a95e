"""Scores computed from a plain full forward with hooks written by hand, sample by sample, in fp64 numpy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from minitron.models.shape import HybridShape

Array = Any


@dataclass
class Heard:
    """What a model does with some samples: place -> layer -> one [T, C] array a sample; streams; logits."""

    places: dict[str, dict[int, list[Array]]]
    before: list[list[Array]]  # sample -> layer -> [T, D]
    after: list[list[Array]]


def listen(model: PreTrainedModel, shape: HybridShape, samples: list[torch.Tensor]) -> Heard:
    backbone: Any = model.base_model
    inner = shape.mamba_num_heads * shape.mamba_head_dim
    places: dict[str, dict[int, list[Array]]] = {
        name: {} for name in ("hidden", "ffn", "ffn_pre", "mamba_x", "mamba_output", "attention")
    }
    heard = Heard(places=places, before=[], after=[])

    def keep(name: str, layer: int, x_BTC: torch.Tensor) -> None:
        places[name].setdefault(layer, []).append(x_BTC[0].detach().double().numpy())

    def on_output(name: str, layer: int, start: int = 0, stop: int | None = None) -> Any:
        return lambda _module, _args, output: keep(name, layer, output[..., start:stop])

    def on_input(name: str, layer: int) -> Any:
        return lambda _module, args: keep(name, layer, args[0])

    def on_block(_block: Any, args: Any, kwargs: Any, output: torch.Tensor) -> None:
        entered = args[0] if args else kwargs["hidden_states"]
        heard.before[-1].append(entered[0].detach().double().numpy())
        heard.after[-1].append(output[0].detach().double().numpy())

    handles = []
    for layer, block in enumerate(backbone.layers):
        kind = shape.hybrid_override_pattern[layer]
        handles.append(block.register_forward_hook(on_block, with_kwargs=True))
        handles.append(block.norm.register_forward_hook(on_output("hidden", layer)))
        if kind == "M":
            handles.append(block.mixer.in_proj.register_forward_hook(on_output("mamba_x", layer, inner, 2 * inner)))
            handles.append(block.mixer.out_proj.register_forward_pre_hook(on_input("mamba_output", layer)))
        elif kind == "-":
            handles.append(block.mixer.up_proj.register_forward_hook(on_output("ffn_pre", layer)))
            handles.append(block.mixer.down_proj.register_forward_pre_hook(on_input("ffn", layer)))
        else:
            handles.append(block.mixer.o_proj.register_forward_pre_hook(on_input("attention", layer)))
    for ids_T in samples:
        heard.before.append([])
        heard.after.append([])
        with torch.no_grad():
            backbone(ids_T[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return heard


def aggregate(x_TC: list[Array], sequence: str, batch: str) -> Array:
    """[C] the published statistic of samples [T, C]."""
    over = {
        "mean_abs": lambda x, axis: np.abs(x).mean(axis),
        "l2": lambda x, axis: np.sqrt((x**2).sum(axis)),
        "variance": lambda x, axis: x.var(axis),
        "max": lambda x, axis: np.abs(x).max(axis),
    }
    return over[batch](np.stack([over[sequence](x, 0) for x in x_TC]), 0)


def weight(model: PreTrainedModel, layer: int, name: str) -> Array:
    backbone: Any = model.base_model
    return backbone.layers[layer].get_parameter(name).detach().double().numpy()


def activation(heard: Heard, shape: HybridShape, sequence: str = "mean_abs", batch: str = "l2") -> dict[str, Any]:
    places = heard.places
    heads = {layer: aggregate(x, sequence, batch) for layer, x in places["attention"].items()}
    return {
        "hidden_size": sum(aggregate(x, sequence, batch) for x in places["hidden"].values()),
        "intermediate_size": {layer: aggregate(x, sequence, batch) for layer, x in places["ffn"].items()},
        "mamba": {
            layer: aggregate(x, sequence, batch).reshape(shape.mamba_num_heads, shape.mamba_head_dim)
            for layer, x in places["mamba_x"].items()
        },
        "num_attention_heads": {
            layer: np.array([np.sqrt((score[h * shape.head_dim : (h + 1) * shape.head_dim] ** 2).sum())
                             for h in range(shape.num_attention_heads)])
            for layer, score in heads.items()
        },
    }  # fmt: skip


READERS = {
    "M": ["mixer.in_proj.weight"],
    "-": ["mixer.up_proj.weight"],
    "*": ["mixer.q_proj.weight", "mixer.k_proj.weight", "mixer.v_proj.weight"],
}


def flap(heard: Heard, model: PreTrainedModel, shape: HybridShape) -> dict[str, Any]:
    def fluctuation(x: list[Array], layer: int, names: list[str]) -> Array:
        norms = sum((weight(model, layer, name) ** 2).sum(0) for name in names)
        return np.concatenate(x).var(0) * norms

    places, pattern = heard.places, shape.hybrid_override_pattern
    attention = {layer: fluctuation(x, layer, ["mixer.o_proj.weight"]) for layer, x in places["attention"].items()}
    return {
        "hidden_size": sum(fluctuation(x, layer, READERS[pattern[layer]]) for layer, x in places["hidden"].items()),
        "intermediate_size": {
            layer: fluctuation(x, layer, ["mixer.down_proj.weight"]) for layer, x in places["ffn"].items()
        },
        "mamba": {
            layer: np.sqrt(fluctuation(x, layer, ["mixer.out_proj.weight"])).reshape(
                shape.mamba_num_heads, shape.mamba_head_dim
            )
            for layer, x in places["mamba_output"].items()
        },
        "num_attention_heads": {layer: s.reshape(-1, shape.head_dim).sum(1) for layer, s in attention.items()},
    }


def zeroing_error(x: list[Array], weight_DC: Array, columns: Array) -> float:
    """Mean over tokens of |output without these columns - output|^2, by really computing both outputs."""
    x_NC = np.concatenate(x)
    without_NC = x_NC.copy()
    without_NC[:, columns] = 0
    return float((((x_NC - without_NC) @ weight_DC.T) ** 2).sum(1).mean())


def energies(heard: Heard, model: PreTrainedModel, shape: HybridShape) -> dict[str, Any]:
    """Output energies as mean square errors of zeroing; for Mamba those of whole heads, and of single channels."""
    places, pattern = heard.places, shape.hybrid_override_pattern

    def each(x: list[Array], layer: int, names: list[str], width: int) -> Array:
        weight_DC = np.concatenate([weight(model, layer, name) for name in names])
        units = weight_DC.shape[1] // width
        return np.array([zeroing_error(x, weight_DC, np.arange(u * width, (u + 1) * width)) for u in range(units)])

    return {
        "hidden_size": sum(each(x, layer, READERS[pattern[layer]], 1) for layer, x in places["hidden"].items()),
        "intermediate_size": {
            layer: each(x, layer, ["mixer.down_proj.weight"], 1) for layer, x in places["ffn"].items()
        },
        "mamba_heads": {
            layer: each(x, layer, ["mixer.out_proj.weight"], shape.mamba_head_dim)
            for layer, x in places["mamba_output"].items()
        },
        "mamba_channels": {
            layer: each(x, layer, ["mixer.out_proj.weight"], 1).reshape(-1, shape.mamba_head_dim).sum(0)
            for layer, x in places["mamba_output"].items()
        },
        "num_attention_heads": {
            layer: each(x, layer, ["mixer.o_proj.weight"], shape.head_dim) for layer, x in places["attention"].items()
        },
    }


def influence(heard: Heard) -> Array:
    layers = len(heard.before[0])
    changes: list[list[float]] = [[] for _ in range(layers)]
    for before, after in zip(heard.before, heard.after, strict=True):
        for layer in range(layers):
            a, b = before[layer], after[layer]
            cosine = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
            changes[layer] += (1 - cosine).tolist()
    return np.array([np.mean(change) for change in changes])


def logits_without(model: PreTrainedModel, samples: list[torch.Tensor], gone: set[int]) -> list[torch.Tensor]:
    """[T, V] fp64 logits of each sample with blocks really removed from the model."""
    backbone: Any = model.base_model
    whole = backbone.layers
    backbone.layers = torch.nn.ModuleList([block for layer, block in enumerate(whole) if layer not in gone])
    head: Any = model.get_output_embeddings()
    with torch.no_grad():
        hidden = [backbone(ids_T[None], use_cache=False).last_hidden_state[0] for ids_T in samples]
        logits = [(h.double() @ head.weight.double().T) for h in hidden]
    backbone.layers = whole
    return logits


def distance(kind: str, original: list[torch.Tensor], changed: list[torch.Tensor]) -> float:
    a, b = torch.cat(original), torch.cat(changed)
    if kind == "logit_mse":
        return float((a - b).square().mean())
    if kind == "logit_nmse":
        return float((a - b).square().sum() / a.square().sum())
    p, q = torch.log_softmax(a, -1), torch.log_softmax(b, -1)
    return float((p.exp() * (p - q)).sum(-1).mean())
