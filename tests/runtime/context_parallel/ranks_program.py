"""Computes on parts of sequences in every process of a launch; the first process writes what all give together.

Ways: `mixer`, a Mamba-2 mixer in fp64; or a model by its name in `MODELS`, behind it `-recomputed` (gradient
checkpointing), `-eager`, or an error that is planted: `-stateless`, `-haloless`, `-unmoved` (positions start at 0 in
every part) or `-unmasked` (every part's queries see as many keys as the first one's).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn import functional as F
from transformers.models.nemotron_h import modeling_nemotron_h as modeling

from minitron.distributed import ContextGroup, Ranks
from minitron.runtime.backbone import last_hidden_states
from minitron.runtime.context_parallel import attention, mamba2, split_model
from minitron.runtime.context_parallel.collectives import gather_tokens
from minitron.runtime.context_parallel.part import TextPart, part_of
from minitron.runtime.context_parallel.split_model import on_part, tokens_read_before
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_model, make_tiny_shape

SAMPLES, TOKENS = 2, 23  # 12 + 11, or 8 + 8 + 7: uneven, and chunks of the scan cross the ends of parts
SHAPE = make_tiny_shape()
MODELS: dict[str, Callable[[], Any]] = {
    "hybrid": lambda: make_tiny_model(SHAPE),
    "experts": lambda: make_tiny_model(make_moe_shape()),
    "llama": lambda: make_tiny_model(make_dense_shape("llama", hidden_size=60, num_attention_heads=6)),
    "qwen3": lambda: make_tiny_model(make_dense_shape("qwen3")),
}


def token_ids() -> torch.Tensor:
    return torch.randint(3, 271, (SAMPLES, TOKENS), generator=torch.Generator().manual_seed(0))


def direction(*shape: int) -> torch.Tensor:
    """What outputs are multiplied by for a loss that tells every token and channel apart."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def make_model(kind: str, changes: list[str]) -> Any:
    model = MODELS[kind]().train()
    if "recomputed" in changes:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if "eager" in changes:
        model.set_attn_implementation("eager")
    return model


def make_mixer() -> Any:
    """The first block's mixer in fp64, all that transformers computes in fp32 included."""
    mixer = MODELS["hybrid"]().model.layers[0].mixer.double()
    mixer.norm.forward = lambda x, gate: grouped_norm(mixer.norm, x * F.silu(gate))
    return mixer


def grouped_norm(norm: Any, x: torch.Tensor) -> torch.Tensor:
    grouped = x.unflatten(-1, (-1, norm.group_size))
    return norm.weight * (grouped * (grouped.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()).flatten(
        -2
    )


def slow_scan(
    mixer: Any, x_BTHP: torch.Tensor, dt_BTH: torch.Tensor, _: torch.Tensor, *BC: torch.Tensor, **given: Any
) -> Any:
    """One token after the other, differentiable, in fp64: arXiv 2405.21060, section 2."""
    A_H = -mixer.A_log.exp()  # transformers gives it in fp32
    B_BTHN, C_BTHN = (each.repeat_interleave(len(A_H) // each.shape[2], 2) for each in BC)
    step_BTH = F.softplus(dt_BTH + given["dt_bias"]).clamp(*given["dt_limit"])
    state_BHPN = torch.zeros(*x_BTHP[:, 0].shape, B_BTHN.shape[-1], dtype=x_BTHP.dtype)
    outputs = []
    for t in range(x_BTHP.shape[1]):
        taken_BHPN = step_BTH[:, t, :, None, None] * x_BTHP[:, t, :, :, None] * B_BTHN[:, t, :, None]
        state_BHPN = (A_H * step_BTH[:, t]).exp()[..., None, None] * state_BHPN + taken_BHPN
        y_BHP = torch.einsum("bhpn,bhn->bhp", state_BHPN, C_BTHN[:, t])
        outputs.append(y_BHP + given["D"][:, None] * x_BTHP[:, t])
    y_BTHP = torch.stack(outputs, 1)
    return (y_BTHP, state_BHPN) if given["return_final_states"] else y_BTHP


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def from_start(own_forward: Any, part: TextPart, *args: Any, **kwargs: Any) -> Any:
    return own_forward(*args, **kwargs, position_ids=torch.arange(part.tokens)[None])


def unmoved_mask(mixer: Any, part: TextPart, x: torch.Tensor) -> torch.Tensor:
    return torch.ones(part.tokens, part.stop, dtype=torch.bool).tril()


PLANTED = {
    "stateless": lambda: replaced(mamba2, "state_before", lambda final, decay, group: torch.zeros_like(final)),
    "haloless": lambda: replaced(mamba2, "from_previous", lambda x, group: torch.zeros_like(x)),
    "unmoved": lambda: replaced(split_model, "_at_its_places", from_start),
    "unmasked": lambda: replaced(attention, "causal_mask", unmoved_mask),
}


def results(way: str, group: ContextGroup | None = None) -> dict[str, Any]:
    """Outputs, and the gradients of a loss that tells every token and channel apart.

    Args:
        way: What is computed, and how.
        group: The processes that hold the sequences together; this one holds them whole when None.
    """
    kind, *changes = way.split("-")
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(PLANTED.get(change, nullcontext)())
        if kind == "mixer":
            module, inputs = make_mixer(), direction(SAMPLES, TOKENS, SHAPE.hidden_size)
            stack.enter_context(replaced(modeling, "mamba2_chunk_scan", partial(slow_scan, module)))
            part = None if group is None else part_of(group, TOKENS, at_least=[SHAPE.conv_kernel - 1])
            run = module if part is None else partial(mamba2.mamba2_forward, module, part)
        else:
            module, inputs = make_model(kind, changes), token_ids()
            part = None if group is None else part_of(group, TOKENS, at_least=[tokens_read_before(module)])
            run = partial(last_hidden_states, module)
            if part is not None:
                stack.enter_context(on_part(module, part))
        own = slice(None) if part is None else slice(part.start, part.stop)
        outputs_BTD = run(inputs[:, own])
        (outputs_BTD.double() * direction(SAMPLES, TOKENS, outputs_BTD.shape[-1])[:, own]).sum().backward()
    outputs_BTD = outputs_BTD.detach()
    gradients = {name: one.grad for name, one in module.named_parameters() if one.grad is not None}
    if part is not None:
        outputs_BTD = gather_tokens(outputs_BTD.transpose(0, 1), part).transpose(0, 1)
        for gradient in gradients.values():
            distributed.all_reduce(gradient)
    return {"outputs": outputs_BTD, **gradients}


def main(output: Path, ways: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    ranks = Ranks("cpu")
    for way in ways:
        found = results(way, ranks.context_group(ranks.world_size))
        if ranks.is_main:
            torch.save(found, output / f"{way}.pt")
    ranks.barrier()
