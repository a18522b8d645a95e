"""How a student is distilled."""

from typing import Annotated

from pydantic import Field

from minitron.recipe.section import PositiveInt, Section, Source


class DistillSection(Section):
    """Recovery from the teacher's logits."""

    data: tuple[Source, ...] = Field(min_length=1, description="Training text and its blend.")
    tokens: PositiveInt = Field(description="Tokens to train on.")
    seq_len: PositiveInt = Field(default=8192, description="Tokens a block; 8192 in the first published stage.")
    batch_size: PositiveInt = Field(default=8, description="Blocks in one step.")
    learning_rate: float = Field(default=1e-4, gt=0, description="Peak learning rate (2408.11796).")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(default=60, description="Linear warm-up (2408.11796).")
    temperature: float = Field(default=1.0, gt=0, description="Softmax temperature (2407.14679).")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay.")
    save_steps: Annotated[int, Field(ge=0)] = Field(default=100, description="Steps between resumable states, 0: none.")


class DepthFirstSection(Section):
    """The published two steps: blocks go first and are distilled away, then the widths (arXiv 2508.14444)."""

    num_hidden_layers: PositiveInt = Field(description="Blocks that are left for the second step.")
    distill: DistillSection = Field(description="Distillation between the steps.")
