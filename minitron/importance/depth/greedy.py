"""Depth scores from logits: one sweep of removal trials, or sweep after sweep, each removing the least block."""

# L blocks

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from minitron.data.samples import Samples
from minitron.distributed import Ranks
from minitron.importance.depth.distance import DISTANCES
from minitron.importance.depth.trials import Finals, removal_trials, whole_pass
from minitron.importance.settings import DepthSettings
from minitron.models.axes import tensor_shape
from minitron.progress import track
from minitron.runtime.hooks import State
from minitron.runtime.stack import Stack
from minitron.units import GIB, MIB

# The original model's final states are kept for later sweeps, and its streams for the trials of the first sweep, when
# they are no larger than this; else they are computed again.
KEPT_BYTES = 2 * GIB
# Bytes that the widest activation of trials run at once may take unless set otherwise: a CPU is fastest while it fits
# the caches (measured on the quickstart's teacher and at the 12B's widths), a GPU wants to be filled.
CPU_BYTES, GPU_BYTES = 8 * MIB, 2 * GIB

SWEEP_STATE = ("depth/totals", "depth/norm", "depth/next")


def logit_depth(
    stack: Stack,
    chunks: Sequence[Sequence[Samples]],
    settings: DepthSettings,
    ranks: Ranks,
    *,
    state: Mapping[str, torch.Tensor],
    save: Callable[[State], None],
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """(depth scores [L], blocks in the order of their removal).

    In a single sweep a block's score is the distance that its removal makes, a mean over tokens. A greedy search gives
    removed blocks negative scores, the first one the lowest, and the others their distance in the last sweep.

    Args:
        stack: The model.
        chunks: Batches of this process's samples; the batches of a chunk go through a block together.
        settings: How blocks are ranked, by one of the logit distances.
        ranks: The processes; distances are means over all of their samples, so that all remove the same blocks.
        state: The last state that an interrupted call with the same arguments saved, or nothing.
        save: Called after every chunk with the state to resume from.

    Raises:
        MinitronError: The quotas do not allow to remove so many blocks.
    """
    pattern = stack.shape.hybrid_override_pattern
    everything = torch.arange(len(pattern))
    scores_L = state.get("depth/scores", torch.zeros(len(pattern), dtype=torch.float64))
    removed = [int(layer) for layer in state.get("depth/removed", everything[:0])]
    removed = removed[: ranks.min(len(removed))]  # a process may have been stopped before it saved the last step
    partial: State = {}
    if int(state.get("depth/step", -1)) == len(removed):
        partial = {name: state[name] for name in SWEEP_STATE}
    trials = _Trials(stack, chunks, settings)
    quotas = settings.quotas(stack.shape.family)
    sweeps = max(1, settings.remove)
    for step in track(range(len(removed), sweeps), "depth sweeps", total=sweeps - len(removed)):
        layers = [layer for layer in range(len(pattern)) if layer not in removed]
        so_far = _removals(scores_L, removed) | {"depth/step": torch.tensor(step)}
        for measured in trials.sweep(layers, partial):
            save(so_far | measured)
            partial = measured
        scores_L = scores_L.clone()
        scores_L[layers] = ranks.sum(partial["depth/totals"]) / ranks.sum(partial["depth/norm"])
        if settings.remove:
            removable = quotas.removable(pattern, layers, len(pattern) - settings.remove)
            removed.append(min(removable, key=lambda layer: float(scores_L[layer])))
            save(so_far | partial | _removals(scores_L, removed))
            ranks.barrier()  # the sums of this step must last until every process has come to its end
        partial = {}
    for step, layer in enumerate(removed):
        scores_L[layer] = float(step - len(removed))
    return scores_L, tuple(removed)


def _removals(scores_L: torch.Tensor, removed: Sequence[int]) -> State:
    return {"depth/scores": scores_L, "depth/removed": torch.tensor(removed, dtype=torch.int64)}


class _Trials:
    """Distances between the original model's logits and those of removal trials."""

    def __init__(self, stack: Stack, chunks: Sequence[Sequence[Samples]], settings: DepthSettings) -> None:
        self._stack, self._chunks = stack, chunks
        self._distance = DISTANCES[settings.scorer](stack)
        self._original = _Original(stack, chunks)
        self._at_once = settings.trials_at_once or _suitable_trials(stack, chunks)

    def sweep(self, layers: Sequence[int], partial: Mapping[str, torch.Tensor]) -> Iterator[State]:
        """After every chunk, what one sweep has measured so far; resumes a partial sweep.

        Args:
            layers: Blocks that are left; each is removed in a trial of its own.
            partial: What an interrupted sweep had measured, or nothing.
        """
        totals = partial.get("depth/totals", torch.zeros(len(layers), dtype=torch.float64)).clone()
        norm = partial.get("depth/norm", torch.zeros((), dtype=torch.float64)).clone()
        begin = int(partial.get("depth/next", 0))
        if begin == len(self._chunks):  # measured whole before, or a process without samples
            yield {"depth/totals": totals, "depth/norm": norm, "depth/next": torch.tensor(begin)}
        for number in range(begin, len(self._chunks)):
            reference, entering = self._original.states(number)
            if len(layers) < self._stack.shape.num_hidden_layers:
                entering = []
            trials = removal_trials(
                self._stack, self._chunks[number], layers, trials_at_once=self._at_once, entering=entering
            )
            measured = 0.0
            while group := list(itertools.islice(trials, self._at_once)):
                sums, measured = self._distance.measure(reference, [finals for _, finals in group])
                totals[[position for position, _ in group]] += sums
            norm += measured
            yield {"depth/totals": totals.clone(), "depth/norm": norm.clone(), "depth/next": torch.tensor(number + 1)}


def _suitable_trials(stack: Stack, chunks: Sequence[Sequence[Samples]]) -> int:
    tokens = max((batch.token_ids.size for chunk in chunks for batch in chunk), default=1)
    family, sizes = stack.shape.family, stack.shape.sizes
    kinds = set(stack.shape.hybrid_override_pattern)
    widest = max(tensor_shape(spec, sizes)[0] for kind in kinds for spec in family.tensors_of(kind, sizes))
    return max(1, (CPU_BYTES if stack.device.type == "cpu" else GPU_BYTES) // (tokens * widest * 4))


class _Original:
    """The original model's states for each chunk: final ones, kept while they are small, and those between blocks."""

    def __init__(self, stack: Stack, chunks: Sequence[Sequence[Samples]]) -> None:
        self._stack, self._chunks = stack, chunks
        self._finals: dict[int, Finals] = {}
        self._keeps_finals = self._bytes([batch for chunk in chunks for batch in chunk]) <= KEPT_BYTES

    def states(self, number: int) -> tuple[Finals, list[list[torch.Tensor]]]:
        """(final states, streams entering each block); the streams come with a first pass that is small enough."""
        if number in self._finals:
            return self._finals[number], []
        layers = range(self._stack.shape.num_hidden_layers)
        keep = self._bytes(self._chunks[number]) * len(layers) <= KEPT_BYTES
        passed = whole_pass(self._stack, self._chunks[number], layers, keep=keep)
        if self._keeps_finals:
            self._finals[number] = passed.finals
        return passed.finals, passed.entering

    def _bytes(self, batches: Sequence[Samples]) -> int:
        return sum(batch.token_ids.size for batch in batches) * self._stack.shape.hidden_size * 4
