"""Recipe sections that train: distillation, in one go or in phases, and the teacher's correction."""

from copy import copy
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo

from minitron.distill.settings import DRAWN_TOKENS, LossSettings, TeacherSettings, TrainingSettings
from minitron.dtypes import FLOAT8_MULTIPLE, TrainedDtype
from minitron.errors import RecipeError
from minitron.recipe.source import Source
from minitron.recipe.students import StudentSection
from minitron.settings import PositiveInt, Settings


class TrainSection(TrainingSettings):
    """Training on text."""

    data: tuple[Source, ...] = Field(default=(), description="Training text and its blend.")
    tokens: PositiveInt | None = Field(default=None, description="Tokens to train on.")
    seq_len: PositiveInt = Field(default=8192, description="Tokens a sequence; 8192 in the first published phase.")
    weights_dtype: TrainedDtype = Field(default="fp32", description="Precision that trained weights are held in.")

    @model_validator(mode="after")
    def _parts_suit_fp8(self) -> "TrainSection":
        if self.precision == "fp8" and self.seq_len % (FLOAT8_MULTIPLE * self.context_parallel):
            whose = "" if self.context_parallel == 1 else f" times context_parallel={self.context_parallel}"
            raise RecipeError(
                f"precision fp8 needs a seq_len that is a multiple of {FLOAT8_MULTIPLE}{whose}, got {self.seq_len}"
            )
        return self

    @property
    def training(self) -> dict[str, object]:
        """The settings of training alone, by name."""
        return {name: getattr(self, name) for name in TrainingSettings.model_fields}


# Settings that a phase may have of its own.
PHASE_SETTINGS = (
    "data",
    "epochs",
    "seq_len",
    "batch_size",
    "micro_batch_size",
    "learning_rate",
    "min_learning_rate",
    "warmup_steps",
    "offload_activations",
    "context_parallel",
)


def _own(name: str) -> tuple[Any, FieldInfo]:
    """A setting of training as a phase has it: of the same type and limits, or left out."""
    field = copy(TrainSection.model_fields[name])
    whole: Any = field.annotation
    if field.metadata:  # limits, which are of the value and not of its absence
        whole = Annotated[(whole, *field.metadata)]
    field.default, field.metadata = None, []
    return (whole | None, field)


class Phase(Settings):
    """A phase of a curriculum; what is left out is the distill section's."""

    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9-]*$", description="Names its folder.")
    tokens: PositiveInt = Field(description="Tokens to train on.")

    @property
    def text(self) -> tuple[Source, ...]:
        """The phase's own text; empty where it takes the section's."""
        found = self.own.get("data", ())
        assert isinstance(found, tuple)
        return found

    @property
    def own(self) -> dict[str, object]:
        """The settings that the phase gives, by name."""
        given = {name: getattr(self, name) for name in ("tokens", *PHASE_SETTINGS)}
        return {name: value for name, value in given.items() if value is not None}


if TYPE_CHECKING:
    PhaseSection = Phase
else:
    PhaseSection = create_model(
        "PhaseSection", __base__=Phase, __doc__=Phase.__doc__, **{name: _own(name) for name in PHASE_SETTINGS}
    )


class DistillSection(TrainSection):
    """Recovery from the teacher's logits."""

    loss: LossSettings = LossSettings()
    teacher: TeacherSettings = TeacherSettings()
    phases: tuple[PhaseSection, ...] = Field(
        default=(), description="A curriculum, in order; in place of tokens, which makes one phase."
    )
    merge: tuple[float, ...] = Field(
        default=(),
        description="Weights of the last phases' students in the result, the last one's last; 0.5, 0.5 "
        "as published (2508.14444); the last one alone when empty.",
    )
    students: tuple[StudentSection, ...] = Field(
        default=(),
        description="Smaller students that share the weights of the one that was cut and train with it (2511.16664); "
        "`minitron extract` writes them.",
    )

    @model_validator(mode="after")
    def _phases_agree(self) -> "DistillSection":
        if (self.tokens is None) == (not self.phases):
            raise RecipeError("either tokens or phases must be given")
        for name, phase in zip(self.phase_names, self.curriculum, strict=True):
            if not phase.data:
                raise RecipeError(f"data must be given, phase {name} has none")
        if len(set(self.phase_names)) < len(self.phase_names):
            raise RecipeError(f"phases must have names of their own, got {', '.join(self.phase_names)}")
        if self.merge and (len(self.merge) > max(1, len(self.phases)) or abs(sum(self.merge) - 1) > 1e-6):
            raise RecipeError(f"merge must have at most a weight a phase, and a sum of 1, got {list(self.merge)}")
        return self

    @model_validator(mode="after")
    def _teacher_agrees(self) -> "DistillSection":
        teacher, loss = self.teacher, self.loss
        if teacher.layerwise and teacher.mode != "cached":
            raise RecipeError(f"teacher.layerwise is how a cache is written, got teacher.mode {teacher.mode}")
        if teacher.mode == "layerwise" and any(phase.epochs > 1 for phase in self.curriculum):
            raise RecipeError("a layerwise teacher goes through its text in order, for epochs use teacher.mode cached")
        if teacher.drawn_tokens and loss.divergence != "forward_kl":
            raise RecipeError(f"teacher.drawn_tokens are for forward_kl, got loss.divergence {loss.divergence}")
        if loss.hidden is not None and teacher.mode != "online":
            raise RecipeError(f"loss.hidden needs an online teacher, got teacher.mode {teacher.mode}")
        if self.context_parallel > 1 and teacher.mode != "online":
            raise RecipeError(f"context_parallel needs an online teacher, got teacher.mode {teacher.mode}")
        return self

    @model_validator(mode="after")
    def _students_can_be_nested(self) -> "DistillSection":
        if not self.students:
            return self
        names = [student.name for student in self.students]
        if len(set(names)) < len(names):
            raise RecipeError(f"students must have names of their own, got {', '.join(names)}")
        refused = {
            "loss.hidden": self.loss.hidden is not None,
            "sharding: fsdp2": self.sharding == "fsdp2",
            "gradient_checkpointing": self.gradient_checkpointing,
            "context_parallel": self.context_parallel > 1,
            "precision: fp8": self.precision == "fp8",
        }
        for setting in (setting for setting, given in refused.items() if given):
            raise RecipeError(f"students train on slices of shared weights, which {setting} cannot have: leave it out")
        return self

    @property
    def curriculum(self) -> tuple["DistillSection", ...]:
        """The phases in order, each as a section of its own without phases.

        Raises:
            RecipeError: A phase's settings do not agree with those that it takes from the section.
        """
        if not self.phases:
            return (self.model_copy(update={"merge": ()}),)
        shared = {name: getattr(self, name) for name in DistillSection.model_fields} | {"phases": (), "merge": ()}
        return tuple(
            self._phase(name, {**shared, **phase.own})
            for name, phase in zip(self.phase_names, self.phases, strict=True)
        )

    @staticmethod
    def _phase(name: str, values: dict[str, object]) -> "DistillSection":
        try:
            return DistillSection.model_validate(values)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise RecipeError(f"phase {name}: {message}") from error

    @property
    def teacher_dtype(self) -> TrainedDtype:
        """Precision that the teacher computes in: one that is run layer by layer computes in fp32."""
        layerwise = self.teacher.mode == "layerwise" or self.teacher.layerwise
        return "fp32" if layerwise else self.teacher.dtype

    @property
    def drawn_tokens(self) -> int:
        """Tokens that a cache draws from those that are not kept."""
        drawn = DRAWN_TOKENS if self.teacher.drawn_tokens is None else self.teacher.drawn_tokens
        return drawn if self.loss.divergence == "forward_kl" else 0

    @property
    def phase_names(self) -> tuple[str, ...]:
        """What the phases are called: their names, or their numbers from 1."""
        named = tuple(phase.name or f"phase-{number}" for number, phase in enumerate(self.phases, start=1))
        return named or ("phase-1",)


class CorrectionSection(TrainSection):
    """Fine-tuning of the teacher on the distillation's text, where the text that it was trained on is not at hand.

    Students learn from the corrected teacher; scores, cuts and evaluation are of the teacher as it is.
    Source: arXiv 2408.11796, section 2.2 (teacher correction).
    """

    tokens: PositiveInt = Field(description="Tokens to train on.")
    data: tuple[Source, ...] = Field(default=(), description="Text; the distill section's when left out.")


class DepthFirstSection(Settings):
    """The published two steps: blocks go first and are distilled away, then the widths (arXiv 2508.14444)."""

    num_hidden_layers: PositiveInt = Field(description="Blocks that are left for the second step.")
    distill: DistillSection = Field(description="Distillation between the steps.")

    @model_validator(mode="after")
    def _one_student(self) -> "DepthFirstSection":
        if self.distill.students:
            raise RecipeError("students are for the last distillation, depth_first.distill must have none")
        return self
