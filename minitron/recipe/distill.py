"""How a student is distilled: one stage, or a curriculum of several."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from minitron.dtypes import TrainedDtype
from minitron.errors import RecipeError
from minitron.recipe.source import Source
from minitron.settings import NonNegativeFloat, PositiveInt, Settings

# With 64 tokens kept, as many drawn ones as bring a cached teacher to an online one: docs/decisions/0014-teachers.md.
DRAWN_TOKENS = 16


class HiddenSection(Settings):
    """A loss on hidden states behind mapped blocks, for cuts so deep that logits alone guide badly (2407.14679)."""

    kind: Literal["cosine", "mse"] = Field(default="cosine", description="Distance between the states.")
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="Factor on it.")
    blocks: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), description="Student's blocks behind which it is taken; every fourth and the last when empty."
    )


class LossSection(Settings):
    """What is minimized."""

    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = Field(
        default="forward_kl", description="Of the student from the teacher; forward KL as published (2408.11796)."
    )
    beta: float = Field(default=0.5, gt=0, lt=1, description="jsd: share of the teacher in the mixture (2306.13649).")
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="Softmax temperature (2407.14679).")
    cross_entropy: NonNegativeFloat = Field(
        default=0.0, description="Factor on the cross-entropy with the text; 0 as published (2408.11796)."
    )
    hidden: HiddenSection | None = Field(default=None, description="A loss on hidden states; null: none, as published.")


class TeacherSection(Settings):
    """Where the teacher's distributions come from."""

    mode: Literal["online", "layerwise", "cached"] = Field(
        default="online",
        description="online: a forward pass beside the student's; layerwise: one block of the teacher in memory at a "
        "time; cached: its best tokens, written beforehand by the stage `cache`.",
    )
    dtype: TrainedDtype = Field(default="fp32", description="Precision that an online teacher is held in.")
    top_k: PositiveInt = Field(default=64, description="cached: tokens kept; all others are one outcome.")
    samples: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="cached, forward_kl: tokens drawn from the others, with which the gradient is in expectation that "
        "of the whole distribution; when null 16, and none for other divergences.",
    )
    layerwise: bool = Field(default=False, description="cached: write the cache with one block in memory at a time.")
    window_sequences: PositiveInt = Field(
        default=64, description="layerwise: blocks of text that the checkpoint is read once for."
    )


class TrainSection(Settings):
    """A stage of training."""

    data: tuple[Source, ...] = Field(default=(), description="Training text and its blend.")
    tokens: PositiveInt | None = Field(default=None, description="Tokens to train on.")
    epochs: PositiveInt = Field(default=1, description="Passes over these tokens, each in a new order.")
    seq_len: PositiveInt = Field(default=8192, description="Tokens a block; 8192 in the first published stage.")
    batch_size: PositiveInt = Field(default=8, description="Blocks in one step, over all devices.")
    micro_batch_size: PositiveInt | None = Field(
        default=None, description="Blocks in one forward pass of a device; its whole share of the batch when null."
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="Peak learning rate (2408.11796).")
    min_learning_rate: NonNegativeFloat = Field(default=0.0, description="Where the cosine decay ends.")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(default=60, description="Linear warm-up (2408.11796).")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Norm that the gradient is clipped to.")
    optim: str = Field(
        default="adamw_torch", description="Optimizer by its name in Hugging Face Trainer, as in adamw_torch_8bit."
    )
    optim_args: str | None = Field(
        default=None,
        description="Its own arguments as Trainer takes them, as in bf16_stochastic_round=True for torchao's on bf16 "
        "weights, which lose small updates otherwise.",
    )
    precision: TrainedDtype = Field(default="fp32", description="Precision of the blocks' products; the loss is fp32.")
    weights_dtype: TrainedDtype = Field(default="fp32", description="Precision that trained weights are held in.")
    gradient_checkpointing: bool = Field(default=False, description="Recompute blocks in the backward pass.")
    offload_activations: bool = Field(
        default=False, description="CUDA, with gradient_checkpointing: keep what recomputation starts from on the host."
    )
    sharding: Literal["ddp", "fsdp2"] = Field(
        default="ddp", description="Several processes: a copy each, or shards of student, teacher and optimizer."
    )
    chunk_tokens: PositiveInt = Field(default=512, description="Tokens whose logits are held at once.")
    save_steps: Annotated[int, Field(ge=0)] = Field(default=100, description="Steps between resumable states, 0: none.")
    report_to: tuple[str, ...] = Field(
        default=(), description="Trackers by their names in Hugging Face Trainer, as in tensorboard or wandb."
    )

    @model_validator(mode="after")
    def _settings_agree(self) -> "TrainSection":
        if self.offload_activations and not self.gradient_checkpointing:
            raise RecipeError("offload_activations needs gradient_checkpointing: true")
        if self.min_learning_rate > self.learning_rate:
            raise RecipeError(
                f"min_learning_rate must be at most learning_rate, {self.learning_rate}, got {self.min_learning_rate}"
            )
        return self


# What changes speed or memory but not the result (beyond rounding), and takes no part in hashes.
SPEED_SETTINGS = frozenset(
    {"micro_batch_size", "gradient_checkpointing", "offload_activations", "sharding", "chunk_tokens"}
)
WATCHING_SETTINGS = frozenset({"save_steps", "report_to"})


class StageSection(Settings):
    """A stage of a curriculum; what is left out is the distill section's."""

    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9-]*$", description="Names its folder.")
    data: tuple[Source, ...] | None = Field(default=None, description="Training text and its blend.")
    tokens: PositiveInt = Field(description="Tokens to train on.")
    epochs: PositiveInt | None = Field(default=None, description="Passes over these tokens.")
    seq_len: PositiveInt | None = Field(default=None, description="Tokens a block.")
    batch_size: PositiveInt | None = Field(default=None, description="Blocks in one step.")
    micro_batch_size: PositiveInt | None = Field(default=None, description="Blocks in one forward pass of a device.")
    learning_rate: float | None = Field(default=None, gt=0, description="Peak learning rate.")
    min_learning_rate: NonNegativeFloat | None = Field(default=None, description="Where the cosine decay ends.")
    warmup_steps: Annotated[int, Field(ge=0)] | None = Field(default=None, description="Linear warm-up.")
    offload_activations: bool | None = Field(
        default=None, description="Keep what recomputation starts from on the host."
    )


class DistillSection(TrainSection):
    """Recovery from the teacher's logits."""

    loss: LossSection = LossSection()
    teacher: TeacherSection = TeacherSection()
    stages: tuple[StageSection, ...] = Field(
        default=(), description="A curriculum, in order; in place of tokens, which makes one stage."
    )
    merge: tuple[float, ...] = Field(
        default=(),
        description="Weights of the last stages' students in the result, the last one's last; 0.5, 0.5 "
        "as published (2508.14444); the last one alone when empty.",
    )

    @model_validator(mode="after")
    def _whole(self) -> "DistillSection":
        if (self.tokens is None) == (not self.stages):
            raise RecipeError("either tokens or stages must be given")
        for number, stage in enumerate(self.curriculum):
            if not stage.data:
                raise RecipeError(f"data must be given, stage {self.stage_names[number]} has none")
            if stage.offload_activations and not self.gradient_checkpointing:
                raise RecipeError("offload_activations needs gradient_checkpointing: true")
        if len(set(self.stage_names)) < len(self.stage_names):
            raise RecipeError(f"stages must have names of their own, got {', '.join(self.stage_names)}")
        if self.merge and (len(self.merge) > max(1, len(self.stages)) or abs(sum(self.merge) - 1) > 1e-6):
            raise RecipeError(f"merge must have at most a weight a stage, and a sum of 1, got {list(self.merge)}")
        if self.teacher.layerwise and self.teacher.mode != "cached":
            raise RecipeError(f"teacher.layerwise is how a cache is written, got teacher.mode {self.teacher.mode}")
        if self.teacher.mode == "layerwise" and any(stage.epochs > 1 for stage in self.curriculum):
            raise RecipeError("a layerwise teacher goes through its text in order, for epochs use teacher.mode cached")
        if self.teacher.samples and self.loss.divergence != "forward_kl":
            raise RecipeError(f"teacher.samples are for forward_kl, got loss.divergence {self.loss.divergence}")
        if self.loss.hidden is not None and self.teacher.mode != "online":
            raise RecipeError(f"loss.hidden needs an online teacher, got teacher.mode {self.teacher.mode}")
        return self

    @property
    def curriculum(self) -> tuple["DistillSection", ...]:
        """The stages in order, each as a section of its own without stages."""
        if not self.stages:
            return (self.model_copy(update={"merge": ()}),)
        return tuple(
            self.model_copy(
                update={
                    "stages": (),
                    "merge": (),
                    **stage.model_dump(exclude={"name"}, exclude_none=True),
                    **({} if stage.data is None else {"data": stage.data}),
                }
            )
            for stage in self.stages
        )

    @property
    def teacher_dtype(self) -> TrainedDtype:
        """Precision that the teacher computes in: one that is run layer by layer computes in fp32."""
        layerwise = self.teacher.mode == "layerwise" or self.teacher.layerwise
        return "fp32" if layerwise else self.teacher.dtype

    @property
    def samples(self) -> int:
        """Tokens that a cache draws from the rest."""
        drawn = DRAWN_TOKENS if self.teacher.samples is None else self.teacher.samples
        return drawn if self.loss.divergence == "forward_kl" else 0

    @property
    def stage_names(self) -> tuple[str, ...]:
        """What the stages are called: their names, or their numbers from 1."""
        return tuple(stage.name or f"stage-{number}" for number, stage in enumerate(self.stages, start=1)) or (
            "stage-1",
        )


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
