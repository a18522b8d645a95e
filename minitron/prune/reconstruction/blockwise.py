"""Reconstruction: a pruned model's blocks refitted one by one to follow its teacher, before any distillation.

In each kept block the projections that read the normed residual stream are refitted to the teacher's outputs, then
those that write into the stream to the teacher's stream; at last the head to the teacher's logits. Every one is a
ridge regression around the sliced weight (`refit`) on what the already repaired model gives it, so errors of earlier
blocks are made up for by later ones. Where epochs are asked for, all of a block's parameters are then trained at once
towards the same stream (`block_refit`), before the next block is looked at. This is beyond the published method.

Several processes repair together: each takes batches of the samples through both models, moments are summed over all
before anything is solved, and the rows of a weight are solved for in turn, so that all have the same weights.

Cost: a pass of the teacher and one of the student over the calibration text, each block read once; an epoch adds some
three passes of the student.

Memory beside the two stacks, one projection at a time, for a weight [D, C], everything in fp64: one that writes needs
12 C^2 + 12 C D bytes while its moments are collected, which are solved in place, one that reads some 24 C^2 and 50 C
for each of the 4,096 rows that are solved for at once. From 12B to 9B (D or C = 4480) that is by arithmetic 3.5 GiB
for a down_proj (C = 15680) and twice its fp32 weight of 2.2 GiB for the head. An epoch needs five
times a block's weights in fp32: values, gradients, two moments, and the best values so far. The streams take
4 (5120 + 4480) bytes a token, 4.7 GiB for 128 samples of 1024, and what the projections of a block in work read 4 C;
with a state folder all of them lie in files.
"""

# B samples, T tokens, D hidden, C inputs, V vocabulary

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import torch
from transformers import PreTrainedModel

from minitron.artifacts.resume import SavedState
from minitron.checkpoints.names import read_place
from minitron.checkpoints.places import model_places
from minitron.data.samples import Samples
from minitron.distributed import Ranks
from minitron.models.config import shape_from_config
from minitron.models.families.family import Family
from minitron.progress import track
from minitron.prune.reconstruction.aligned_streams import AlignedStreams
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.block_fit import BlockFit
from minitron.prune.reconstruction.block_refit import BlockRefit
from minitron.prune.reconstruction.moments import Moments
from minitron.prune.reconstruction.partial_run import PartialRun
from minitron.prune.reconstruction.rounding import Rounding, Weights
from minitron.prune.reconstruction.settings import RepairSettings
from minitron.prune.reconstruction.shares import share_batches
from minitron.prune.reconstruction.state import repair_identity
from minitron.runtime.backbone import Block
from minitron.runtime.building import config_of

logger = logging.getLogger(__name__)


@torch.no_grad()
def repair(
    pair: Alignment,
    samples: Samples,
    settings: RepairSettings | None = None,
    *,
    dtypes: Mapping[str, torch.dtype] | None = None,
    state_folder: Path | None = None,
    ranks: Ranks | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name on disk, repaired weight in fp32), block by block; blocks of a student in memory change in place.

    A block's weights may be written over the student's own files as soon as they are yielded: they are saved by then,
    and an interrupted call is resumed by the same call, in as many processes, with bit-identical results.

    Several processes, which all take every weight, share the samples out and end with the same weights; without epochs
    they are those of one process but for the order of sums in fp64. The first process saves the state.

    Args:
        pair: The teacher, and the student with its sliced weights.
        samples: The calibration text, the same in every process.
        settings: Which projections, and how strongly they are pulled towards the sliced weights.
        dtypes: Name on disk -> dtype that a weight will be stored in: it is rounded to it before later blocks are
            fitted. Weights that are not named keep the student's dtype in memory.
        state_folder: Where finished blocks and streams are saved, which all processes see; the caller removes it. In
            memory when None.
        ranks: The processes; this one alone when None.

    Raises:
        MinitronError: The model overflows.
    """
    settings, ranks = settings or RepairSettings(), ranks or Ranks.alone()
    started = time.monotonic()
    state = SavedState(state_folder, repair_identity(samples, pair, settings, dtypes or {}, processes=ranks.world_size))
    share = share_batches(samples, settings.batch_size, ranks, by="sample" if settings.epochs else "batch")
    own_folder = None if state_folder is None else state_folder / f"streams-{ranks.rank}"
    streams = AlignedStreams(pair, share.batches, own_folder)
    rounding = Rounding(pair.plan.target, dtypes or {})
    refit = BlockRefit(streams, share, settings, rounding) if settings.epochs else None
    fit = BlockFit(pair, streams, settings, rounding, ranks)
    run = _Repair(pair, streams, fit, refit, _Finished(state, ranks), ranks)
    yield from run.blocks()
    if settings.projections == "all":
        yield from run.head()
    logger.info("repaired on %d tokens in %.1f s", samples.num_tokens, time.monotonic() - started)


class _Finished:
    """The weights of blocks that all processes have finished, which the first one saves."""

    def __init__(self, state: SavedState, ranks: Ranks) -> None:
        self._state, self._ranks = state, ranks

    def load(self, position: int) -> Weights | None:
        """The weights of a block, or of the head behind the last one; None where they are not saved."""
        name = f"repaired-{position:04d}"
        # The first process removes a file that is no use before the others could meet it.
        found = self._state.load_tensors(name) if self._ranks.is_main else None
        if not self._ranks.broadcast(found is not None):
            return None
        return found if self._ranks.is_main else self._state.load_tensors(name)

    def save(self, position: int, weights: Weights) -> None:
        """Saves weights once all processes have come to the block's end; returns when no call does the block again."""
        self._ranks.barrier()
        if self._ranks.is_main:
            self._state.save_tensors(f"repaired-{position:04d}", weights)
        self._ranks.barrier()


class _Repair:
    """One repair and where it is."""

    def __init__(
        self,
        pair: Alignment,
        streams: AlignedStreams,
        fit: BlockFit,
        refit: BlockRefit | None,
        finished: _Finished,
        ranks: Ranks,
    ) -> None:
        self._pair, self._streams, self._fit, self._refit, self._finished = pair, streams, fit, refit, finished
        self._ranks = ranks

    def blocks(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Repairs the blocks that are left, after those that are saved."""
        layers, ends = self._pair.layers, self._pair.ends
        done = 0
        while done < len(layers) and (saved := self._finished.load(done)) is not None:
            yield from saved.items()
            done += 1
        if done == 0:
            self._streams.embed()
        start = ends[done - 1] if done else 0
        with (
            closing(self._pair.teacher.blocks(range(start, ends[-1]))) as taught,  # type: ignore[type-var]
            closing(self._pair.student.blocks(range(done, len(layers)))) as own,  # type: ignore[type-var]
        ):
            for position in track(range(done, len(layers)), "repair", total=len(layers) - done):
                repaired = self._repair_block(position, start, taught, next(own))
                start = ends[position]
                self._finished.save(position, repaired)
                self._streams.teacher.settle(start)
                self._streams.student.settle(position + 1)
                yield from repaired.items()

    def head(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Refits the head to the teacher's logits, which need only the moments of what the two heads read."""
        position, target = len(self._pair.layers), self._pair.plan.target
        name = target.head_tensor
        if name != target.family.head:  # a head that is the embeddings, too, stays as it was sliced
            return
        saved = self._finished.load(position)
        if saved is None:
            saved = {name: self._refit_head(name)}
            self._finished.save(position, saved)
        yield from saved.items()

    def _repair_block(self, position: int, start: int, taught: Iterator[Block], own: Block) -> Weights:
        run, repaired = PartialRun(self._streams, own, position), Weights()
        for at in range(start, self._pair.ends[position]):
            block = next(taught)
            if at == self._pair.layers[position]:
                repaired |= self._fit.fit_inner(block, run)
            else:
                self._streams.advance_teacher(block, at)
        repaired |= self._fit.fit_outputs(run)
        if self._refit is not None:
            run.forget()
            end = self._pair.ends[position]
            repaired |= self._refit.refit(
                own, position, lambda number: self._fit.kept_channels(self._streams.teacher.read(number, end))
            )
        run.advance()
        return repaired

    def _refit_head(self, name: str) -> torch.Tensor:
        teacher, student = self._pair.teacher, self._pair.student
        layers = self._pair.plan.source.num_hidden_layers
        for block in teacher.blocks(range(self._pair.ends[-1], layers)):
            self._streams.advance_teacher(block, block[0])
        moments = Moments()
        for number, mask_BT in self._streams.teacher_masks():
            taught_BTD = teacher.final_norm(self._streams.teacher.read(number, layers))
            own_BTD = student.final_norm(self._streams.student.read(number, len(self._pair.layers)))
            moments.update((taught_BTD.to(own_BTD.device), own_BTD), mask_BT)
        moments.sum_over(self._ranks)
        rows = zip(teacher.head(), student.head(), strict=True)
        return torch.cat([self._fit.fit_reader(name, taught_ND, own_ND, moments) for taught_ND, own_ND in rows])


@torch.no_grad()
def apply_repaired(model: PreTrainedModel, family: Family, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Copies repaired weights, by their names on disk, into a loaded pruned model of a family, in place."""
    shape = shape_from_config(config_of(model))
    assert shape.family is family
    places, state = model_places(shape), model.state_dict()
    for name, weight in weights:
        read_place(state, places[name]).copy_(weight)
