"""Disk space of a run: files that stay, and files that are there while a stage runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from minitron.artifacts.json_files import JsonObject
from minitron.distill.settings import AUTO
from minitron.dry_run.shapes import Shapes
from minitron.dry_run.training import Training
from minitron.dtypes import dtype_bytes, find_dtype
from minitron.estimate.training.setup import OPTIMIZER_BYTES
from minitron.recipe.distill import DistillSection
from minitron.recipe.recipe import Recipe

CACHED_SEQUENCE_BYTES = 8  # of a sequence in a teacher's cache, beside its tokens
SHORT_IDS = 2**16  # ids below it take two bytes in a file of packed text, others four


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskItem:
    """Something that a stage writes.

    Attributes:
        stage: The stage.
        part: The phase of the curriculum; what one phase needs is there at once.
        what: What it is.
        bytes: Its size.
        stays: Whether it is there when the stage is over.
    """

    stage: str
    part: str = ""
    what: str
    bytes: int
    stays: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPlan:
    """Disk space of a run.

    Attributes:
        items: Everything that is written.
    """

    items: tuple[DiskItem, ...]

    @property
    def stays_bytes(self) -> int:
        """Bytes that are there when the run is over."""
        return sum(item.bytes for item in self.items if item.stays)

    @property
    def most_bytes(self) -> int:
        """The most bytes at once."""
        passing: dict[tuple[str, str], int] = {}
        for item in self.items:
            if not item.stays:
                passing[item.stage, item.part] = passing.get((item.stage, item.part), 0) + item.bytes
        return self.stays_bytes + max(passing.values(), default=0)

    def to_json(self) -> JsonObject:
        """As JSON."""
        return {**asdict(self), "stays_bytes": self.stays_bytes, "most_bytes": self.most_bytes}


def plan_disk(recipe: Recipe, config: Mapping[str, object], shapes: Shapes, trainings: Sequence[Training]) -> DiskPlan:
    """Everything that a run writes.

    Args:
        recipe: The recipe.
        config: The teacher's `config.json`.
        shapes: The run's shapes.
        trainings: The run's phases of training.
    """
    found = (
        _checkpoints(recipe, config, shapes),
        _while_training(shapes, trainings),
        _caches(shapes, trainings),
        _hidden_states(recipe, shapes),
    )
    return DiskPlan(items=tuple(item for items in found for item in items))


def cache_token_bytes(vocab_size: int, top_k: int, drawn_tokens: int = 0) -> int:
    """Bytes of a token in a teacher's cache: packed ids, their log-probabilities and the tail mass in 16 bits each.

    >>> cache_token_bytes(131072, 64)
    266
    """
    id_bits = (vocab_size - 1).bit_length()
    return -(-(top_k + drawn_tokens) * id_bits // 8) + 2 * (top_k + 1 + (drawn_tokens > 0))


def _checkpoints(recipe: Recipe, config: Mapping[str, object], shapes: Shapes) -> Iterator[DiskItem]:
    stored = dtype_bytes(find_dtype(str(config.get("dtype") or config.get("torch_dtype"))) or "bf16")
    cut = stored if recipe.prune.weights_dtype is None else dtype_bytes(recipe.prune.weights_dtype)
    if recipe.prune.vocabulary is not None:
        yield DiskItem(stage="vocabulary", what="teacher with the kept tokens", bytes=shapes.teacher.params * stored)
    if recipe.correct_teacher is not None:
        yield DiskItem(stage="correct", what="corrected teacher", bytes=shapes.teacher.params * stored)
    if recipe.depth_first is not None:
        source = shapes.source.params * cut
        yield DiskItem(stage="depth", what="checkpoint", bytes=source)
        yield _students("depth_distill", recipe.depth_first.distill, source)
    student = shapes.student.params * cut
    yield DiskItem(stage="prune", what="checkpoint", bytes=student)
    yield _students("distill", recipe.distill, student)


def _students(stage: str, section: DistillSection, one: int) -> DiskItem:
    number = max(1, len(section.phases)) + (len(section.merge) > 1)
    return DiskItem(stage=stage, what="checkpoint" if number == 1 else f"{number} checkpoints", bytes=number * one)


def _while_training(shapes: Shapes, trainings: Sequence[Training]) -> Iterator[DiskItem]:
    for training in trainings:
        section, where = training.section, {"stage": training.stage, "part": training.name}
        if training.mode != "cached":  # a cache keeps its text beside it
            yield DiskItem(**where, what="packed text", bytes=_packed(training, shapes), stays=False)
        weight = dtype_bytes(section.weights_dtype)
        if section.keep == "best" or section.learning_rate == AUTO:
            # What the last state has seen, and better ones since.
            kept = int(2 * training.student.params * weight)
            yield DiskItem(**where, what="two kept states' weights", bytes=kept, stays=False)
        if section.save_steps:
            state = OPTIMIZER_BYTES.get(section.optim, OPTIMIZER_BYTES["adamw_torch"])(weight)
            # The state before is deleted once the next one is whole.
            both = int(2 * training.student.params * (weight + state))
            yield DiskItem(**where, what="two resumable states", bytes=both, stays=False)


def _caches(shapes: Shapes, trainings: Sequence[Training]) -> Iterator[DiskItem]:
    for training in trainings:
        if training.mode == "cached" and isinstance(training.section, DistillSection):
            token = cache_token_bytes(
                shapes.teacher.vocab_size, training.section.teacher.top_k, training.section.drawn_tokens
            )
            size = training.length.packed_tokens * token + training.length.sequences * CACHED_SEQUENCE_BYTES
            what = f"teacher's cache, {token} bytes a token"
            yield DiskItem(stage="cache", part=training.name, what=what, bytes=size)
            yield DiskItem(stage="cache", part=training.name, what="packed text", bytes=_packed(training, shapes))


def _hidden_states(recipe: Recipe, shapes: Shapes) -> Iterator[DiskItem]:
    section = recipe.evaluate
    if section.layerwise:
        teacher, student = shapes.teacher.hidden_size, shapes.student.hidden_size
        # Those before and after a block, and while a student runs the teacher's last ones.
        a_token = 4 * max(2 * teacher, teacher + 2 * student)
        size = section.sequences * section.seq_len * a_token
        yield DiskItem(stage="evaluate", what="hidden states of the text", bytes=size, stays=False)


def _packed(training: Training, shapes: Shapes) -> int:
    return training.length.packed_tokens * (2 if shapes.teacher.vocab_size <= SHORT_IDS else 4)
