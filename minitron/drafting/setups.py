"""How a student can be trained on a GPU, from what is fastest to what takes least memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from minitron.drafting.wishes import GPU_COUNTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A way to train.

    Attributes:
        gpus: GPUs; 0 is the CPU.
        settings: Settings of `distill`.
    """

    gpus: int
    settings: Mapping[str, object] = field(default_factory=dict)


_ONLINE = {"precision": "bf16", "teacher": {"mode": "online", "dtype": "bf16"}}
_RECOMPUTED = {**_ONLINE, "gradient_checkpointing": True}
_CACHED = {**_RECOMPUTED, "teacher": {"mode": "cached", "top_k": 64, "layerwise": True}}
_EIGHT_BITS = {
    **_CACHED,
    "weights_dtype": "bf16",
    "optim": "adamw_torch_8bit",
    "optim_args": "bf16_stochastic_round=True",
}
_SHARDED = {**_RECOMPUTED, "sharding": "fsdp2"}


def setups(gpus: int | None) -> Iterator[Setup]:
    """The ways to train on so many GPUs, 1, 2, 4 and 8 when None, the one that is preferred first."""
    for count in GPU_COUNTS if gpus is None else (gpus,):
        if count == 0:
            yield Setup(gpus=0)
        elif count == 1:
            yield from (Setup(gpus=1, settings=each) for each in (_ONLINE, _RECOMPUTED, _CACHED, _EIGHT_BITS))
        else:
            yield from (Setup(gpus=count, settings=each) for each in (_ONLINE, _RECOMPUTED, _SHARDED))
