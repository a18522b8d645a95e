"""Repair: a pruned model's projections refitted in closed form, block by block, so that it follows its teacher again.

In each kept block the projections that read the normed residual stream are refitted to the teacher's outputs, then
those that write into the stream to the teacher's stream; at last the head to the teacher's logits. Every one is a
ridge regression around the sliced weight (`refit`) on what the already repaired model gives it, so errors of earlier
blocks are made up for by later ones. This is beyond the published method.

Cost: one pass of the teacher and 2 (`outputs`) to 3 of the student over the calibration text, each block read once.

Memory beside the two stacks, one projection at a time, for a weight [D, C], everything in fp64: one that writes needs
24 C^2 + 24 C D bytes (moments, system and factor; cross moments, solution and copy), one that reads about
24 C^2 + 56 C D. From 12B to 9B (D or C = 4480) that is by arithmetic 7.1 GiB for a down_proj (C = 15680), 3.4 GiB for a
Mamba out_proj (C = 10240), 1.1 GiB for an o_proj (C = 5120), 5.7 GiB for an in_proj (D = 22656) and, in chunks of rows,
twice its fp32 weight of 2.2 GiB for the head. The streams take 4 (5120 + 4480) bytes a token: 4.7 GiB for 128
samples of 1024; with a state folder they lie in files.
"""

# B samples, T tokens, D hidden, C inputs, V vocabulary

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from minitron.artifacts.resume import SavedState
from minitron.data.samples import Samples
from minitron.errors import MinitronError
from minitron.models.families.family import Branch, Family, HookPoint
from minitron.models.slicing import tensor_cuts
from minitron.progress import track
from minitron.prune.plan import PrunePlan
from minitron.prune.reconstruction.moments import Moments, heard
from minitron.prune.reconstruction.ridge import refit
from minitron.prune.reconstruction.state import repair_identity
from minitron.runtime.stack import Block, Stack
from minitron.runtime.streams import FileStreams, MemoryStreams, Streams

logger = logging.getLogger(__name__)

# The family's place where a block's input projections read the normed stream.
READ_PLACE = "hidden"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairSettings:
    """How a pruned model is repaired.

    Attributes:
        ridge: Strength of the pull towards the sliced weight, relative to the mean square of a projection's inputs.
        projections: `outputs`: only those that write into the residual stream; `all`: also those that read it, and the
            head.
        target: What the stream after a kept block is fitted to when the blocks behind it were removed: the teacher's
            stream after them, as the next kept block received it, or right after the kept block.
        batch_size: Samples in one pass; it changes speed and memory, and results by rounding alone.
    """

    ridge: float = 1e-2
    projections: Literal["all", "outputs"] = "all"
    target: Literal["after_removed", "after_block"] = "after_removed"
    batch_size: int = 8


@torch.no_grad()
def repair(
    teacher: Stack,
    student: Stack,
    plan: PrunePlan,
    samples: Samples,
    settings: RepairSettings | None = None,
    *,
    dtypes: Mapping[str, torch.dtype] | None = None,
    state_folder: Path | None = None,
    origin: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name on disk, repaired weight in fp32), block by block; blocks of a student in memory change in place.

    A block's weights may be written over the student's own files as soon as they are yielded: they are saved by then,
    and an interrupted call is continued by the same call with the same bits.

    Args:
        teacher: What was pruned.
        student: What the plan left of it, with its sliced weights.
        plan: What survived.
        samples: The calibration text.
        settings: How.
        dtypes: Name on disk -> dtype that a weight will be stored in: it is rounded to it before later blocks are
            fitted. Weights that are not named keep the student's dtype in memory.
        state_folder: Where finished blocks and streams are saved; the caller removes it. In memory when None.
        origin: What the weights come from, so that a saved state of other ones is left aside.

    Raises:
        MinitronError: A stack is not of the plan's shape, or the model overflows.
    """
    settings = settings or RepairSettings()
    for name, stack, shape in (("teacher", teacher, plan.source), ("student", student, plan.target)):
        if stack.shape != shape:
            raise MinitronError(f"the {name} must have the plan's shape {shape}, it has {stack.shape}")
    started = time.monotonic()
    identity = repair_identity(samples, plan, settings, dtypes or {}, stacks=(teacher, student)) | {
        "origin": dict(origin or {})
    }
    state = SavedState(state_folder, identity)
    run = _Repair(teacher, student, plan, samples.batches(settings.batch_size), settings, dtypes or {}, state)
    yield from run.blocks()
    if settings.projections == "all":
        yield from run.head()
    logger.info("repaired on %d tokens in %.1f s", samples.num_tokens, time.monotonic() - started)


class _Repair:
    """One repair and where it is."""

    def __init__(
        self,
        teacher: Stack,
        student: Stack,
        plan: PrunePlan,
        batches: list[Samples],
        settings: RepairSettings,
        dtypes: Mapping[str, torch.dtype],
        state: SavedState,
    ) -> None:
        self._teacher, self._student, self._plan, self._settings = teacher, student, plan, settings
        self._batches, self._dtypes, self._state = batches, dtypes, state
        self._family = plan.source.family
        self._cuts = {cut.name: cut for cut in tensor_cuts(plan.source, plan.keep)}
        self._streams = [self._open(name) for name in ("teacher", "student")]
        layers, last = plan.keep.layers, plan.source.num_hidden_layers
        following = (*layers[1:], last)
        self._ends = following if settings.target == "after_removed" else tuple(layer + 1 for layer in layers)

    def blocks(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Repairs the blocks that are left, after those that are saved."""
        layers = self._plan.keep.layers
        done = 0
        while done < len(layers) and (saved := self._state.load_tensors(_saved_as(done))) is not None:
            yield from saved.items()
            done += 1
        if done == 0:
            self._embed()
        start = self._ends[done - 1] if done else 0
        with (
            closing(self._teacher.blocks(range(start, self._ends[-1]))) as taught,  # type: ignore[type-var]
            closing(self._student.blocks(range(done, len(layers)))) as own,  # type: ignore[type-var]
        ):
            for position in track(range(done, len(layers)), "repair", total=len(layers) - done):
                repaired = self._repair_block(position, start, taught, next(own))
                start = self._ends[position]
                self._state.save_tensors(_saved_as(position), repaired)
                self._streams[0].settle(start)
                self._streams[1].settle(position + 1)
                yield from repaired.items()

    def head(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Refits the head to the teacher's logits, which need only the moments of what the two heads read."""
        position, name = len(self._plan.keep.layers), self._plan.target.head_tensor
        if name != self._family.head:  # a head that is the embeddings, too, stays as it was sliced
            return
        saved = self._state.load_tensors(_saved_as(position))
        if saved is None:
            saved = {name: self._refit_head(name)}
            self._state.save_tensors(_saved_as(position), saved)
        yield from saved.items()

    def _refit_head(self, name: str) -> torch.Tensor:
        layers = self._plan.source.num_hidden_layers
        at = self._ends[-1]
        for block in self._teacher.blocks(range(at, layers)):
            self._advance(0, block, at)
            at += 1
        moments = Moments()
        for number, mask_BT in self._masks(self._teacher):
            taught_BTD = self._teacher.final_norm(self._streams[0].read(number, layers))
            own_BTD = self._student.final_norm(self._streams[1].read(number, len(self._plan.keep.layers)))
            moments.add(taught_BTD.to(own_BTD.device), own_BTD, mask_BT)
        rows = zip(self._teacher.head(), self._student.head(), strict=True)
        parts = []
        for taught_ND, own_ND in rows:
            parts.append(self._rounded(name, self._refit_reader(taught_ND, own_ND, moments), own_ND.dtype))
        return torch.cat(parts)

    def _repair_block(self, position: int, start: int, taught: Iterator[Block], own: Block) -> dict[str, torch.Tensor]:
        layer, kind = self._plan.keep.layers[position], self._plan.target.hybrid_override_pattern[position]
        points = self._family.hook_points[READ_PLACE].get(kind, ()) if self._settings.projections == "all" else ()
        branches = self._family.branches[kind]
        repaired: dict[str, torch.Tensor] = {}
        for at in range(start, self._ends[position]):
            block = next(taught)
            if at != layer:
                self._advance(0, block, at)
                continue
            inner = self._run_teacher(block, points, branches)
            for point, branch in zip_longest(points, branches):
                if point is not None:
                    repaired |= self._refit_readers(point, inner["read", point.module], block, own, position)
                if branch is not None and branch.entered is not None:
                    repaired |= self._refit_written(branch, inner["entered", branch.entered], layer, own, position)
            for streams in inner.values():
                streams.settle(-1)
        for branch in branches:
            if branch.entered is None:
                repaired |= self._refit_written(branch, self._streams[0], self._ends[position], own, position)
        self._advance(1, own, position)
        return repaired

    def _run_teacher(
        self, block: Block, points: tuple[HookPoint, ...], branches: tuple[Branch, ...]
    ) -> dict[tuple[str, str], Streams]:
        """Takes the teacher's stream through a block and keeps what its norms gave and what entered submodules."""
        layer = block[0]
        places = {("read", point.module): (point.module, point.side) for point in points}
        for branch in branches:
            if branch.entered is not None:
                places["entered", branch.entered] = (branch.entered, "input")
        kept = {place: self._open("-".join(("teacher", *place))) for place in places}
        with heard(block[1], places) as found:
            for number, mask_BT in self._masks(self._teacher):
                after_BTD = self._teacher.run([block], self._streams[0].read(number, layer), mask_BT)
                self._streams[0].write(number, layer + 1, after_BTD)
                for place, streams in kept.items():
                    streams.write(number, layer, found[place])
        return kept

    def _refit_readers(
        self, point: HookPoint, taught: Streams, block: Block, own: Block, position: int
    ) -> dict[str, torch.Tensor]:
        kind, layer = self._plan.target.hybrid_override_pattern[position], block[0]
        moments = Moments()
        with heard(own[1], {"read": (point.module, point.side)}) as found:
            for number, mask_BT in self._masks(self._student):
                self._student.run([own], self._streams[1].read(number, position), mask_BT)
                moments.add(taught.read(number, layer).to(self._student.device), found["read"], mask_BT)
        names = self._family.readers(kind, point, "hidden_size", self._plan.target.sizes)
        repaired: dict[str, torch.Tensor] = {}
        for name in names:
            weight_DC = own[1].get_parameter(name)
            if weight_DC.ndim == 2:  # a stack of experts reads what a router chose for each, not the whole stream
                repaired |= self._refit_read(name, moments, block, weight_DC, position)
        return repaired

    def _refit_read(
        self, name: str, moments: Moments, block: Block, weight_DC: torch.Tensor, position: int
    ) -> dict[str, torch.Tensor]:
        on_disk = self._family.block_prefix.format(layer=position) + name
        kept = self._cuts[on_disk].kept[0]
        taught_DC: torch.Tensor = block[1].get_parameter(name)
        if kept is not None:
            taught_DC = taught_DC[torch.from_numpy(kept).to(taught_DC.device)]
        fitted_DC = self._refit_reader(taught_DC, weight_DC, moments)
        return {on_disk: self._put(weight_DC, self._rounded(on_disk, fitted_DC, weight_DC.dtype))}

    def _refit_reader(self, taught: torch.Tensor, weight: torch.Tensor, moments: Moments) -> torch.Tensor:
        # Teacher X W_T^T minus student A W^T, times A: the tokens are summed already. Biases are equal and cancel.
        cross = taught.cpu().double() @ moments.cross.cpu() - weight.cpu().double() @ moments.gram.cpu()
        return refit(weight, cross, moments.gram, self._settings.ridge)

    def _refit_written(
        self, branch: Branch, target: Streams, at: int, own: Block, position: int
    ) -> dict[str, torch.Tensor]:
        places = {"inputs": (branch.projection, "input")}
        if branch.entered is not None:
            places["stream"] = (branch.entered, "input")
        moments = Moments()
        with heard(own[1], places) as found:
            for number, mask_BT in self._masks(self._student):
                after_BTD = self._student.run([own], self._streams[1].read(number, position), mask_BT)
                own_BTD = found.get("stream", after_BTD)
                wanted_BTD = self._kept_channels(target.read(number, at)).to(own_BTD.device)
                moments.add(wanted_BTD.float() - own_BTD.float(), found["inputs"], mask_BT)
        name = f"{branch.projection}.weight"
        on_disk = self._family.block_prefix.format(layer=position) + name
        weight_DC = own[1].get_parameter(name)
        fitted_DC = refit(weight_DC, moments.cross, moments.gram, self._settings.ridge)
        return {on_disk: self._put(weight_DC, self._rounded(on_disk, fitted_DC, weight_DC.dtype))}

    def _rounded(self, on_disk: str, weight: torch.Tensor, in_memory: torch.dtype) -> torch.Tensor:
        return weight.to(self._dtypes.get(on_disk, in_memory)).float()

    def _put(self, parameter: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        parameter.copy_(weight)
        return weight

    def _kept_channels(self, stream_BTD: torch.Tensor) -> torch.Tensor:
        kept = self._cuts[self._family.final_norm].kept[0]
        return stream_BTD if kept is None else stream_BTD[..., torch.from_numpy(kept).to(stream_BTD.device)]

    def _embed(self) -> None:
        for streams, stack in zip(self._streams, (self._teacher, self._student), strict=True):
            for number, batch in enumerate(self._batches):
                streams.write(number, 0, stack.embed(batch.ids(stack.device)))

    def _advance(self, which: int, block: Block, at: int) -> None:
        streams, stack = self._streams[which], (self._teacher, self._student)[which]
        for number, mask_BT in self._masks(stack):
            streams.write(number, at + 1, stack.run([block], streams.read(number, at), mask_BT))

    def _masks(self, stack: Stack) -> Iterator[tuple[int, torch.Tensor | None]]:
        yield from ((number, batch.mask(stack.device)) for number, batch in enumerate(self._batches))

    def _open(self, name: str) -> Streams:
        folder = self._state.folder
        if folder is None:
            return MemoryStreams(len(self._batches))
        stack = self._student if name == "student" else self._teacher
        return FileStreams(folder / f"streams-{name}", len(self._batches), device=stack.device)


def _saved_as(position: int) -> str:
    return f"repaired-{position:04d}"


@torch.no_grad()
def apply_repaired(model: PreTrainedModel, family: Family, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Copies repaired weights, by their names on disk, into a loaded pruned model, in place."""
    for name, weight in weights:
        model.get_parameter(family.name_in_memory(name)).copy_(weight)
