"""RMSNorm compensation: corrects, in norm weights, the mean error of norms over fewer hidden channels.

With channels removed, the root mean square of what is left differs from that of the whole. Of a token t, let r_t be
rms(kept channels) over rms(all channels): the pruned norm's output is the teacher's divided by r_t. The one factor on
the norm's weight that brings it nearest, in least squares over tokens, is the mean of r_t, since every output of the
norm has the same length before the weight.
"""

# B samples, T tokens, D hidden

from collections.abc import Iterator
from itertools import chain, zip_longest

import torch

from minitron.data.samples import Samples
from minitron.distributed import Ranks
from minitron.models.axes import Indices
from minitron.progress import track
from minitron.prune.plan import PrunePlan
from minitron.runtime.hooks import Activations, HookSite, collecting
from minitron.runtime.stack import Stack
from minitron.runtime.streams import MemoryStreams

OVER_HIDDEN = ((("hidden_size",),),)


@torch.no_grad()
def norm_scales(
    stack: Stack, samples: Samples, plan: PrunePlan, *, batch_size: int = 8, ranks: Ranks | None = None
) -> dict[str, float]:
    """Name on disk -> factor, for every norm over hidden channels that the pruned model keeps.

    Empty when the plan cuts no hidden channels. One pass of the teacher, a block at a time; in memory lie two residual
    streams of all samples; of several processes, which find the same factors, each holds those of its batches.

    Args:
        stack: The teacher.
        samples: Calibration samples; padded tokens do not count.
        plan: What is kept.
        batch_size: Samples in one pass; it changes speed and memory alone.
        ranks: The processes; this one alone when None.
    """
    kept = plan.keep.indices.get(("hidden_size", None))
    if kept is None:
        return {}
    family, shape = stack.shape.family, stack.shape
    ranks = ranks or Ranks.alone()
    batches = samples.batches(batch_size)[ranks.rank :: ranks.world_size]
    streams = MemoryStreams(len(batches))
    for number, batch in enumerate(batches):
        streams.write(number, 0, stack.embed(batch.ids(stack.device)))
    scales: dict[str, float] = {}
    layers = range(shape.num_hidden_layers)
    for layer, block in track(stack.blocks(layers), "compensate", total=len(layers)):
        ratios = {name: RmsRatio(kept) for name in _norms(plan, layer)}
        norms = [
            (block, HookSite(module=name.removesuffix(".weight"), side="input"), ratio)
            for name, ratio in ratios.items()
        ]
        for number, batch in enumerate(batches):
            mask_BT = batch.mask(stack.device)
            with collecting(norms, mask_BT):
                streams.write(number, layer + 1, stack.run([(layer, block)], streams.read(number, layer), mask_BT))
        prefix = family.block_prefix.format(layer=layer)
        scales |= {prefix + name: ratio.mean_over(ranks) for name, ratio in ratios.items()}
    last = RmsRatio(kept)
    for number, batch in enumerate(batches):
        last.update((streams.read(number, shape.num_hidden_layers),), batch.mask(stack.device))
    return scales | {family.final_norm: last.mean_over(ranks)}


def _norms(plan: PrunePlan, layer: int) -> Iterator[str]:
    """Names, inside a block that is kept, of the weights of norms over hidden channels."""
    if layer in plan.keep.layers:
        shape = plan.source
        for spec in shape.family.tensors_of(shape.hybrid_override_pattern[layer], shape.sizes):
            if spec.norm is not None and spec.dims == OVER_HIDDEN:
                yield spec.name


class RmsRatio:
    """The mean over counted tokens of rms(kept channels) / rms(all channels) of what enters a norm."""

    def __init__(self, kept: Indices) -> None:
        self._kept = torch.from_numpy(kept)
        self._batches: list[torch.Tensor] = []  # [2] sum and count of each, in fp64

    def mean_over(self, ranks: Ranks) -> float:
        """The mean over the tokens of all processes, the same in each; 0 before the first token.

        Processes have batches in turn. They are added up in the order of batches, so that their number changes no bit.
        """
        batches_N2 = torch.stack(self._batches) if self._batches else torch.zeros(0, 2, dtype=torch.float64)
        gathered = [one["batches"].tolist() for one in ranks.gather({"batches": batches_N2.cpu()})]
        total = count = 0.0
        for row in chain.from_iterable(zip_longest(*gathered)):
            if row is not None:
                total, count = total + row[0], count + row[1]
        return total / max(1.0, count)

    def update(self, activations: Activations, mask_BT: torch.Tensor | None) -> None:
        """Takes in a batch of what enters the norm, [B, T, D]."""
        (x_BTD,) = activations
        squares_BTD = x_BTD.detach().float().square()
        kept_BT = squares_BTD[..., self._kept.to(x_BTD.device)].mean(dim=-1)
        ratio_BT = (kept_BT / squares_BTD.mean(dim=-1).clamp(min=1e-30)).sqrt()
        if mask_BT is not None:
            ratio_BT = ratio_BT[mask_BT]
        total = ratio_BT.sum(dtype=torch.float64)
        self._batches.append(torch.stack([total, torch.full_like(total, ratio_BT.numel())]))
