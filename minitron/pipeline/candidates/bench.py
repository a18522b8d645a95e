"""The models that candidates are cut from and compared with, and the measurements of one candidate."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.vocabulary import require_one_vocabulary
from minitron.data.samples import Samples
from minitron.distributed import Ranks
from minitron.evaluate.perplexity import evaluate_text
from minitron.evaluate.teacher_states import TeacherStates
from minitron.importance.scores import Scores
from minitron.importance.selection import select_units
from minitron.models.slicing import tensor_cuts
from minitron.pipeline.calibration import read_samples
from minitron.pipeline.candidates.text import CandidateText
from minitron.pipeline.sections import candidate_repair, prune_section
from minitron.prune.in_memory import prune_model
from minitron.prune.norm_compensation import norm_scales
from minitron.prune.plan import PrunePlan
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.blockwise import apply_repaired, repair
from minitron.recipe.recipe import Recipe
from minitron.runtime.dtypes import torch_dtype
from minitron.runtime.loading import load_model
from minitron.runtime.stack import MemoryStack
from minitron.search.record import HeldOut
from minitron.search.solver import Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a candidate measures without training: right after the cut, and repaired (None where it is not)."""

    zero_shot: HeldOut
    repaired: HeldOut | None = None


class Bench:
    """Teacher, what is cut, and text, in memory; every model in fp32.

    Args:
        recipe: The recipe.
        source: The checkpoint that is cut.
        scores: Its scores.
        text: What candidates are compared on.

    Attributes:
        teacher: The recipe's teacher.
        text: What candidates are compared on.
    """

    def __init__(self, recipe: Recipe, source: Checkpoint, scores: Scores, text: CandidateText) -> None:
        require_one_vocabulary(Path(recipe.teacher), source.folder)
        self._recipe, self._source, self._scores = recipe, source, scores
        self._section, self._repair = prune_section(recipe), candidate_repair(recipe)
        self.text = text
        self.teacher = load_model(Path(recipe.teacher), device=recipe.device)
        self._against = TeacherStates(self.teacher)
        is_teacher = source.folder.resolve() == Path(recipe.teacher).resolve()
        self._model = self.teacher if is_teacher else load_model(source.folder, device=recipe.device)
        self._stack = MemoryStack(self._model, source.shape)

    def measure(self, candidate: Candidate) -> Measurement:
        """Cuts a candidate, repairs it where that is asked for, and measures it each time."""
        plan = self.plan(candidate)
        student = self.cut(plan)
        zero_shot = self.held_out(student)
        if self._repair is None:
            return Measurement(zero_shot=zero_shot)
        self.repair(student, plan)
        return Measurement(zero_shot=zero_shot, repaired=self.held_out(student))

    def start(self, candidate: Candidate) -> PreTrainedModel:
        """The student that a tournament trains: cut, and repaired where that is asked for."""
        plan = self.plan(candidate)
        student = self.cut(plan)
        if self._repair is not None:
            self.repair(student, plan)
        return student

    def plan(self, candidate: Candidate) -> PrunePlan:
        """What stays of the source, its norms compensated where the recipe's cut is."""
        shape, compensate = self._source.shape, self._section.compensate
        keep = select_units(self._scores, shape, candidate.shape, candidate.layers)
        plan = PrunePlan(source=shape, target=candidate.shape, keep=keep)
        if compensate is None:
            return plan
        scales = norm_scales(self._stack, self._compensated_on, plan, batch_size=compensate.batch_size)
        return replace(plan, scales=scales)

    def cut(self, plan: PrunePlan) -> PreTrainedModel:
        """The source cut by a plan, in memory."""
        return prune_model(self._model, plan)

    def repair(self, student: PreTrainedModel, plan: PrunePlan) -> None:
        """Refits a student in place, to weights of the dtypes that the recipe's cut is stored in."""
        assert self._repair is not None
        pair = Alignment(teacher=self._stack, student=MemoryStack(student, plan.target), plan=plan)
        weights = repair(pair, self._repaired_on, self._repair, dtypes=self._stored(plan))
        apply_repaired(student, plan.target.family, weights)

    def held_out(self, student: PreTrainedModel, ranks: Ranks | None = None) -> HeldOut:
        """Loss, and KL to the teacher, on the held-out sequences, which processes that hold the student share out."""
        found = evaluate_text(student, self.text.held_out_NT, teacher=self._against, ranks=ranks)
        assert found.kl_to_teacher is not None
        return HeldOut(loss=found.loss, kl=found.kl_to_teacher)

    @cached_property
    def _compensated_on(self) -> Samples:
        assert self._section.compensate is not None
        return read_samples(self._section.compensate, self._source, seed=self._recipe.seed)

    @cached_property
    def _repaired_on(self) -> Samples:
        assert self._repair is not None
        return read_samples(self._repair, self._source, seed=self._recipe.seed)

    def _stored(self, plan: PrunePlan) -> dict[str, torch.dtype]:
        converted = self._section.stored_dtype
        return {
            cut.name: torch_dtype(converted or self._source.tensors[cut.source].dtype)
            for cut in tensor_cuts(plan.source, plan.keep)
        }
