"""Refits the projections of one pruned block: readers of the stream to the teacher's outputs, writers to its stream."""

# B samples, T tokens, D hidden (or rows of a projection), C inputs

from itertools import zip_longest

import torch

from minitron.distributed import Ranks
from minitron.models.families.family import Branch, HookPoint
from minitron.models.slicing import tensor_cuts
from minitron.prune.reconstruction.aligned_streams import AlignedStreams
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.moments import Moments
from minitron.prune.reconstruction.partial_run import PartialRun
from minitron.prune.reconstruction.ridge import refit
from minitron.prune.reconstruction.rounding import Rounding, Weights
from minitron.prune.reconstruction.settings import RepairSettings
from minitron.prune.reconstruction.shares import solve_by_rows
from minitron.runtime.backbone import Block
from minitron.runtime.hooks import HookSite, LatestActivation, collecting, site_of
from minitron.runtime.streams import Streams

# The activation, as families name it, that a block's input projections read: the normed stream.
READ_ACTIVATION = "hidden"
# Rows of a reader that are solved for at once, in fp64: 160 MiB a matrix at a hidden size of 5120.
ROWS = 4096


class BlockFit:
    """Refits blocks on the streams that enter them, in place.

    Args:
        pair: Teacher and student.
        streams: Their streams over this process's calibration samples.
        settings: Which projections, and how strongly they are pulled towards their sliced weights.
        rounding: Names of weights, and the dtypes that they are rounded to.
        ranks: The processes, which fit each block together: moments are those of all samples.
    """

    def __init__(
        self,
        pair: Alignment,
        streams: AlignedStreams,
        settings: RepairSettings,
        rounding: Rounding,
        ranks: Ranks,
    ) -> None:
        self._pair, self._streams, self._settings, self._rounding = pair, streams, settings, rounding
        self._ranks = ranks
        self._family, self._target = pair.plan.source.family, pair.plan.target
        self._cuts = {cut.name: cut for cut in tensor_cuts(pair.plan.source, pair.plan.keep)}

    def fit_inner(self, teacher_block: Block, run: PartialRun) -> Weights:
        """Takes the teacher through a block and refits what the teacher's submodules are the targets of.

        Args:
            teacher_block: The teacher's block.
            run: What was left of it.

        Returns:
            The refitted weights by name on disk: readers, and writers of branches that do not end the block.
        """
        kind = self._kind(run)
        fits_readers = self._settings.projections == "all"
        points = self._family.hook_points[READ_ACTIVATION].get(kind, ()) if fits_readers else ()
        branches = self._family.branches[kind]
        targets = self._teacher_targets(teacher_block, points, branches)
        repaired: Weights = {}
        for point, branch in zip_longest(points, branches):
            if point is not None:
                repaired |= self._fit_readers(point, targets["read", point.module], teacher_block, run)
            if branch is not None and branch.entered is not None:
                target = targets["entered", branch.entered]
                repaired |= self._fit_writer(branch, target, teacher_block[0], run)
        for streams in targets.values():
            streams.settle(-1)
        return repaired

    def fit_outputs(self, run: PartialRun) -> Weights:
        """Refits the writers whose branch ends a block, to the teacher's stream; the weights by name on disk."""
        repaired: Weights = {}
        for branch in self._family.branches[self._kind(run)]:
            if branch.entered is None:
                repaired |= self._fit_writer(branch, self._streams.teacher, self._pair.ends[run.position], run)
        return repaired

    def fit_reader(self, name: str, taught_DC: torch.Tensor, own_DC: torch.Tensor, moments: Moments) -> torch.Tensor:
        """[D, C] weight whose outputs follow the teacher's, rounded to its stored dtype, in fp32.

        Args:
            name: Its name on disk.
            taught_DC: The teacher's weight of these rows.
            own_DC: The sliced weight.
            moments: Of the teacher's inputs (targets) and the student's inputs.
        """

        def refitted(rows: slice) -> torch.Tensor:
            return self._refit_rows(taught_DC[rows], own_DC[rows], moments)

        fitted_DC = solve_by_rows(refitted, own_DC.shape, self._ranks, most=ROWS)
        return self._rounding.rounded(name, fitted_DC, own_DC.dtype)

    def kept_channels(self, stream_BTD: torch.Tensor) -> torch.Tensor:
        """The channels of one of the teacher's streams that the student has."""
        kept = self._cuts[self._family.final_norm].kept[0]
        return stream_BTD if kept is None else stream_BTD[..., torch.from_numpy(kept).to(stream_BTD.device)]

    def _refit_rows(self, taught_RC: torch.Tensor, own_RC: torch.Tensor, moments: Moments) -> torch.Tensor:
        # Teacher X W_T^T minus student A W^T, times A: the tokens are summed already. Biases are equal and cancel.
        cross_RC = taught_RC.cpu().double() @ moments.cross.cpu() - own_RC.cpu().double() @ moments.gram.cpu()
        return refit(own_RC, cross_RC, moments.gram, self._settings.ridge)

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
        kept = {name: self._streams.scratch("-".join(name), of="teacher") for name in sites}
        latest = {name: LatestActivation() for name in sites}
        with collecting([(module, site, latest[name]) for name, site in sites.items()]):
            for number, mask_BT in self._streams.teacher_masks():
                self._streams.run_teacher(block, number, mask_BT, layer)
                for name, streams in kept.items():
                    streams.write(number, layer, latest[name].value)
        return kept

    def _fit_readers(self, point: HookPoint, targets: Streams, teacher_block: Block, run: PartialRun) -> Weights:
        kind, layer, own = self._kind(run), teacher_block[0], run.own[1]
        moments = Moments()
        for each in run.passes({"input": site_of(point, kind, self._target)}):
            target = targets.read(each.number, layer).to(self._pair.student.device)
            moments.update((target, each.shown["input"]), each.mask_BT)
        moments.sum_over(self._ranks)
        repaired: Weights = {}
        for name in self._family.readers(kind, point, "hidden_size", self._target.sizes):
            weight_DC = own.get_parameter(name)
            if weight_DC.ndim == 2:  # a stack of experts reads what a router chose for each, not the whole stream
                on_disk = self._rounding.on_disk(run.position, self._family.name_on_disk(kind, name))
                taught_DC = self._kept_rows(on_disk, teacher_block[1].get_parameter(name))
                repaired[on_disk] = self.fit_reader(on_disk, taught_DC, weight_DC, moments)
                weight_DC.copy_(repaired[on_disk])
        return repaired

    def _fit_writer(self, branch: Branch, target: Streams, at: int, run: PartialRun) -> Weights:
        moments, own = Moments(), run.own[1]
        # The stream right after the projection: what enters the next submodule, or leaves the block.
        behind = HookSite() if branch.entered is None else HookSite(module=branch.entered, side="input")
        sites = {"input": HookSite(module=branch.projection, side="input"), "stream": behind}
        multiplied = self._family.residual_multiplier
        multiplier = 1.0 if multiplied is None else float(getattr(own, multiplied))
        with run.learning(branch):
            for each in run.passes(sites):
                own_BTD = each.shown["stream"]
                wanted_BTD = self.kept_channels(target.read(each.number, at)).to(own_BTD.device)
                lacking_BTD = (wanted_BTD.float() - own_BTD.float()) / multiplier
                moments.update((lacking_BTD, each.shown["input"]), each.mask_BT)
        moments.sum_over(self._ranks)
        name = f"{branch.projection}.weight"
        on_disk, weight_DC = self._rounding.on_disk(run.position, name), own.get_parameter(name)

        def refitted(rows: slice) -> torch.Tensor:  # called once, as it destroys the moments
            return refit(weight_DC[rows], moments.cross[rows], moments.gram, self._settings.ridge, overwrite=True)

        fitted_DC = solve_by_rows(refitted, weight_DC.shape, self._ranks)
        rounded_DC = self._rounding.rounded(on_disk, fitted_DC, weight_DC.dtype)
        weight_DC.copy_(rounded_DC)
        return {on_disk: rounded_DC}

    def _kind(self, run: PartialRun) -> str:
        return self._target.hybrid_override_pattern[run.position]

    def _kept_rows(self, on_disk: str, weight_DC: torch.Tensor) -> torch.Tensor:
        kept = self._cuts[on_disk].kept[0]
        return weight_DC if kept is None else weight_DC[torch.from_numpy(kept).to(weight_DC.device)]
