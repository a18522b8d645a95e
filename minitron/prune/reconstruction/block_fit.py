"""Refits the projections of one pruned block: readers of the stream to the teacher's outputs, writers to its stream."""

# B samples, T tokens, D hidden (or rows of a projection), C inputs

from collections.abc import Mapping
from itertools import zip_longest

import torch

from minitron.models.families.family import Branch, HookPoint
from minitron.models.slicing import tensor_cuts
from minitron.prune.reconstruction.aligned_streams import AlignedStreams
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.moments import Moments
from minitron.prune.reconstruction.ridge import refit
from minitron.prune.reconstruction.settings import RepairSettings
from minitron.runtime.backbone import Block
from minitron.runtime.hooks import Attachment, HookSite, LatestActivation, collecting, site_of
from minitron.runtime.streams import Streams

# The activation, as families name it, that a block's input projections read: the normed stream.
READ_ACTIVATION = "hidden"

Weights = dict[str, torch.Tensor]


class BlockFit:
    """Refits blocks on the streams that enter them, in place.

    Args:
        pair: Teacher and student.
        streams: Their streams over the calibration samples.
        settings: Which projections, and how strongly they are pulled towards their sliced weights.
        dtypes: Name on disk -> dtype that a weight is rounded to; others keep their dtype in memory.
    """

    def __init__(
        self,
        pair: Alignment,
        streams: AlignedStreams,
        settings: RepairSettings,
        dtypes: Mapping[str, torch.dtype],
    ) -> None:
        self._pair, self._streams, self._settings, self._dtypes = pair, streams, settings, dtypes
        self._family, self._target = pair.plan.source.family, pair.plan.target
        self._cuts = {cut.name: cut for cut in tensor_cuts(pair.plan.source, pair.plan.keep)}

    def fit_inner(self, teacher_block: Block, own: Block, position: int) -> Weights:
        """Takes the teacher through a block and refits what the teacher's submodules are the targets of.

        Args:
            teacher_block: The teacher's block.
            own: What was left of it.
            position: Index of the student's block.

        Returns:
            The refitted weights by name on disk: readers, and writers of branches that do not end the block.
        """
        kind = self._target.hybrid_override_pattern[position]
        fits_readers = self._settings.projections == "all"
        points = self._family.hook_points[READ_ACTIVATION].get(kind, ()) if fits_readers else ()
        branches = self._family.branches[kind]
        targets = self._teacher_targets(teacher_block, points, branches)
        repaired: Weights = {}
        for point, branch in zip_longest(points, branches):
            if point is not None:
                repaired |= self._fit_readers(point, targets["read", point.module], teacher_block, own, position)
            if branch is not None and branch.entered is not None:
                target = targets["entered", branch.entered]
                repaired |= self._fit_writer(branch, target, teacher_block[0], own, position)
        for streams in targets.values():
            streams.settle(-1)
        return repaired

    def fit_outputs(self, own: Block, position: int) -> Weights:
        """Refits the writers whose branch ends a block, to the teacher's stream; the weights by name on disk."""
        branches = self._family.branches[self._target.hybrid_override_pattern[position]]
        repaired: Weights = {}
        for branch in branches:
            if branch.entered is None:
                repaired |= self._fit_writer(branch, self._streams.teacher, self._pair.ends[position], own, position)
        return repaired

    def fit_reader(self, name: str, taught_DC: torch.Tensor, own_DC: torch.Tensor, moments: Moments) -> torch.Tensor:
        """[D, C] weight whose outputs follow the teacher's, rounded to its stored dtype, in fp32.

        Args:
            name: Its name on disk.
            taught_DC: The teacher's weight of these rows.
            own_DC: The sliced weight.
            moments: Of the teacher's inputs (targets) and the student's inputs.
        """
        # Teacher X W_T^T minus student A W^T, times A: the tokens are summed already. Biases are equal and cancel.
        cross_DC = taught_DC.cpu().double() @ moments.cross.cpu() - own_DC.cpu().double() @ moments.gram.cpu()
        return self._rounded(name, refit(own_DC, cross_DC, moments.gram, self._settings.ridge), own_DC.dtype)

    def _teacher_targets(
        self, block: Block, points: tuple[HookPoint, ...], branches: tuple[Branch, ...]
    ) -> dict[tuple[str, str], Streams]:
        """Takes the teacher's streams through a block and keeps what its norms gave and what entered submodules."""
        layer, module = block
        kind = self._pair.plan.source.hybrid_override_pattern[layer]
        sites = {("read", point.module): site_of(point, kind, self._pair.plan.source) for point in points}
        for branch in branches:
            if branch.entered is not None:
                sites["entered", branch.entered] = HookSite(module=branch.entered, side="input")
        kept = {name: self._streams.open("-".join(("teacher", *name)), self._pair.teacher) for name in sites}
        latest = {name: LatestActivation() for name in sites}
        with collecting([(module, site, latest[name]) for name, site in sites.items()]):
            for number, mask_BT in self._streams.masks(self._pair.teacher):
                self._streams.run_teacher(block, number, mask_BT, layer)
                for name, streams in kept.items():
                    streams.write(number, layer, latest[name].value)
        return kept

    def _fit_readers(
        self, point: HookPoint, targets: Streams, teacher_block: Block, own: Block, position: int
    ) -> Weights:
        kind, layer = self._target.hybrid_override_pattern[position], teacher_block[0]
        moments, inputs = Moments(), LatestActivation()
        with collecting([(own[1], site_of(point, kind, self._target), inputs)]):
            for number, mask_BT in self._streams.masks(self._pair.student):
                self._streams.run_student(own, number, mask_BT, position)
                target = targets.read(number, layer).to(self._pair.student.device)
                moments.update((target, inputs.value), mask_BT)
        names = self._family.readers(kind, point, "hidden_size", self._target.sizes)
        repaired: Weights = {}
        for name in names:
            weight_DC = own[1].get_parameter(name)
            if weight_DC.ndim == 2:  # a stack of experts reads what a router chose for each, not the whole stream
                on_disk = self._on_disk(position, self._family.name_on_disk(kind, name))
                taught_DC = self._kept_rows(on_disk, teacher_block[1].get_parameter(name))
                repaired[on_disk] = self.fit_reader(on_disk, taught_DC, weight_DC, moments)
                weight_DC.copy_(repaired[on_disk])
        return repaired

    def _fit_writer(self, branch: Branch, target: Streams, at: int, own: Block, position: int) -> Weights:
        moments, inputs, stream = Moments(), LatestActivation(), LatestActivation()
        attachments: list[Attachment] = [(own[1], HookSite(module=branch.projection, side="input"), inputs)]
        # The stream right after the projection: what enters the next submodule, or leaves the block.
        behind = HookSite() if branch.entered is None else HookSite(module=branch.entered, side="input")
        attachments.append((own[1], behind, stream))
        multiplied = self._family.residual_multiplier
        multiplier = 1.0 if multiplied is None else float(getattr(own[1], multiplied))
        with collecting(attachments):
            for number, mask_BT in self._streams.masks(self._pair.student):
                self._streams.run_student(own, number, mask_BT, position)
                own_BTD = stream.value
                wanted_BTD = self._kept_channels(target.read(number, at)).to(own_BTD.device)
                lacking_BTD = (wanted_BTD.float() - own_BTD.float()) / multiplier
                moments.update((lacking_BTD, inputs.value), mask_BT)
        name = f"{branch.projection}.weight"
        on_disk, weight_DC = self._on_disk(position, name), own[1].get_parameter(name)
        fitted_DC = refit(weight_DC, moments.cross, moments.gram, self._settings.ridge)
        rounded_DC = self._rounded(on_disk, fitted_DC, weight_DC.dtype)
        weight_DC.copy_(rounded_DC)
        return {on_disk: rounded_DC}

    def _on_disk(self, position: int, name: str) -> str:
        return self._family.block_prefix.format(layer=position) + name

    def _rounded(self, on_disk: str, weight: torch.Tensor, in_memory: torch.dtype) -> torch.Tensor:
        return weight.to(self._dtypes.get(on_disk, in_memory)).float()

    def _kept_rows(self, on_disk: str, weight_DC: torch.Tensor) -> torch.Tensor:
        kept = self._cuts[on_disk].kept[0]
        return weight_DC if kept is None else weight_DC[torch.from_numpy(kept).to(weight_DC.device)]

    def _kept_channels(self, stream_BTD: torch.Tensor) -> torch.Tensor:
        kept = self._cuts[self._family.final_norm].kept[0]
        return stream_BTD if kept is None else stream_BTD[..., torch.from_numpy(kept).to(stream_BTD.device)]
