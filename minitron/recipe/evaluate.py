"""Recipe section: what teacher and student are measured on."""

from pydantic import Field

from minitron.evaluate.speed.settings import SpeedSettings
from minitron.recipe.paths import RecipePath
from minitron.recipe.source import Source
from minitron.settings import PositiveInt, Settings


class Task(Settings):
    """An exact-match task."""

    name: str = Field(description="What the tables call it.")
    path: RecipePath = Field(description="A .jsonl file with prompt and answer.")
    problems: PositiveInt | None = Field(default=None, description="How many to ask; all when left out.")
    max_new_tokens: PositiveInt = Field(default=256, description="Tokens an answer may take, its trace included.")


class EvaluateSection(Settings):
    """Evaluation of teacher, pruned and distilled."""

    data: tuple[Source, ...] = Field(min_length=1, description="Held-out text.")
    sequences: PositiveInt = Field(default=64, description="Packed sequences of it.")
    seq_len: PositiveInt = Field(default=1024, description="Tokens a sequence.")
    task: Task | None = Field(default=None, description="An exact-match task.")
    speed: SpeedSettings = Field(default=SpeedSettings(), description="How generation speed is measured.")
