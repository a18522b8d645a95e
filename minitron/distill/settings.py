"""Settings of training, of the loss and of the teacher. A recipe's sections are made of them. Loads no torch."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from minitron.dtypes import ProductDtype, TrainedDtype
from minitron.errors import MinitronError
from minitron.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Settings

# With 64 tokens kept, as many drawn ones as bring a cached teacher to an online one: docs/decisions/0014-teachers.md.
DRAWN_TOKENS = 16
DEFAULT_CHUNK_TOKENS = 512

AUTO: Literal["auto"] = "auto"

# What tells a number and the word apart; the tags show up in the places of faults.
RATE_TAGS = ("a rate", "auto")
LearningRate = Annotated[
    Annotated[PositiveFloat, Tag("a rate")] | Annotated[Literal["auto"], Tag("auto")],
    Discriminator(lambda value: "auto" if value == AUTO else "a rate"),
]


class ValidationSettings(Settings):
    """The text that a training is watched by: documents of its own text that it never trains on."""

    sequences: PositiveInt = Field(default=32, description="Packed sequences that are measured each time.")
    every_steps: PositiveInt | None = Field(
        default=None,
        description="Optimizer steps between measurements, the start and the end besides; when null so many that they "
        "take about a twentieth of the training, and at most 20 times.",
    )
    share: float = Field(
        default=0.01,
        gt=0,
        le=0.5,
        description="Share of each source's documents, picked by the hash of their text, that is held out of training "
        "for it; a tenth where that is no sequence.",
    )


class TrainingSettings(Settings):
    """How weights are trained, whatever the loss."""

    epochs: PositiveInt = Field(default=1, description="Passes over the tokens, each in a new order.")
    batch_size: PositiveInt = Field(default=8, description="Sequences in one optimizer step, over all devices.")
    micro_batch_size: PositiveInt | None = Field(
        default=None, description="Sequences in one forward pass of a device; its whole share of the batch when null."
    )
    learning_rate: LearningRate = Field(
        default=AUTO,
        description="Peak learning rate, 1e-4 as published (2408.11796); auto: searched for from where the student "
        "starts (docs/decisions/0027-never-worse.md).",
    )
    min_learning_rate: NonNegativeFloat = Field(default=0.0, description="Where the cosine decay ends.")
    warmup_steps: NonNegativeInt = Field(default=60, description="Steps of linear warm-up (2408.11796).")
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
    precision: ProductDtype = Field(
        default="fp32",
        description="Precision of the blocks' products (autocast); the loss is fp32. fp8, by torchao: linear layers "
        "whose sizes are multiples of 16, all else bf16; CUDA of capability 8.9 or above.",
    )
    gradient_checkpointing: bool = Field(default=False, description="Recompute blocks in the backward pass.")
    offload_activations: bool = Field(
        default=False, description="CUDA, with gradient_checkpointing: keep what recomputation starts from on the host."
    )
    sharding: Literal["ddp", "fsdp2"] = Field(
        default="ddp", description="Several processes: a copy each, or shards of student, teacher and optimizer."
    )
    context_parallel: PositiveInt = Field(
        default=1,
        description="Consecutive processes that hold each sequence together, a part each, student and online teacher "
        "alike; families: docs/decisions/0035-context-parallel.md.",
    )
    chunk_tokens: PositiveInt = Field(default=DEFAULT_CHUNK_TOKENS, description="Tokens whose logits are held at once.")
    keep: Literal["best", "last"] = Field(
        default="best", description="Weights that the result holds: of the best state on validation text, or the last."
    )
    validation: ValidationSettings = Field(default=ValidationSettings(), description="What the training is watched by.")
    save_steps: NonNegativeInt = Field(default=100, description="Steps between resumable states, 0: none.")
    report_to: tuple[str, ...] = Field(
        default=(), description="Trackers by their names in Hugging Face Trainer, as in tensorboard or wandb."
    )

    @model_validator(mode="after")
    def _settings_agree(self) -> "TrainingSettings":
        if self.offload_activations and not self.gradient_checkpointing:
            raise MinitronError("offload_activations needs gradient_checkpointing: true")
        if self.learning_rate != AUTO and self.min_learning_rate > self.learning_rate:
            raise MinitronError(
                f"min_learning_rate must be at most learning_rate, {self.learning_rate}, got {self.min_learning_rate}"
            )
        return self


# What changes speed or memory but not the result (beyond rounding), and takes no part in fingerprints.
SPEED_SETTINGS = frozenset(
    {
        "micro_batch_size",
        "gradient_checkpointing",
        "offload_activations",
        "sharding",
        "context_parallel",
        "chunk_tokens",
    }
)
WATCHING_SETTINGS = frozenset({"save_steps", "report_to"})


class HiddenSettings(Settings):
    """A loss on hidden states behind mapped blocks, for cuts so deep that logits alone guide badly (2407.14679)."""

    kind: Literal["cosine", "mse"] = Field(default="cosine", description="Distance between the states.")
    weight: PositiveFloat = Field(default=1.0, description="Weight of the hidden-state loss.")
    blocks: tuple[NonNegativeInt, ...] = Field(
        default=(), description="Student's blocks behind which it is taken; every fourth and the last when empty."
    )


class LossSettings(Settings):
    """What is minimized."""

    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = Field(
        default="forward_kl", description="Of the student from the teacher; forward KL as published (2408.11796)."
    )
    beta: float = Field(default=0.5, gt=0, lt=1, description="jsd: share of the teacher in the mixture (2306.13649).")
    temperature: PositiveFloat = Field(default=1.0, description="Softmax temperature (2407.14679).")
    cross_entropy: NonNegativeFloat = Field(
        default=0.0, description="Weight of the cross-entropy with the text; 0 as published (2408.11796)."
    )
    hidden: HiddenSettings | None = Field(
        default=None, description="A loss on hidden states; null: none, as published."
    )


class TeacherSettings(Settings):
    """Where the teacher's logits come from."""

    mode: Literal["online", "layerwise", "cached"] = Field(
        default="online",
        description="online: a forward pass beside the student's; layerwise: one block of the teacher in memory at a "
        "time; cached: its best tokens, written beforehand by the stage `cache`.",
    )
    dtype: TrainedDtype = Field(default="fp32", description="Precision that an online teacher is held in.")
    top_k: PositiveInt = Field(default=64, description="cached: tokens kept; all others are one outcome.")
    drawn_tokens: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="cached, forward_kl: tokens drawn from the others, with which the gradient is in expectation that "
        "of the whole distribution; when null 16, and none for other divergences.",
    )
    layerwise: bool = Field(default=False, description="cached: write the cache with one block in memory at a time.")
    window_sequences: PositiveInt = Field(
        default=64, description="layerwise: sequences of text that the checkpoint is read once for."
    )
