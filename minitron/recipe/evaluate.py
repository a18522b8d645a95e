"""Recipe section: what teacher and student are measured on."""

from typing import Any, Literal

from pydantic import Field, model_validator

from minitron.artifacts.json_files import JsonObject
from minitron.dtypes import EvaluatedDtype
from minitron.errors import RecipeError
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
    dtype: Literal["auto"] | EvaluatedDtype = Field(
        default="auto",
        description="What the models are held and multiplied in, logits and losses aside, which are fp32; auto: bf16 "
        "on CUDA, else fp32.",
    )
    layerwise: bool = Field(
        default=False,
        description="One block of one model in memory at a time; no task and no speed, which need whole models.",
    )
    task: Task | None = Field(default=None, description="An exact-match task.")
    speed: SpeedSettings | None = Field(
        default=SpeedSettings(), description="How generation speed is measured; null: it is not, as where layerwise."
    )

    @model_validator(mode="before")
    @classmethod
    def _no_speed_unless_asked(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("layerwise") is True:
            return {"speed": None, **given}
        return given

    @model_validator(mode="after")
    def _whole_models_generate(self) -> "EvaluateSection":
        asked = [name for name in ("task", "speed") if getattr(self, name) is not None]
        if self.layerwise and asked:
            raise RecipeError(
                "layerwise has one block in memory at a time, a task and speed need whole models: set "
                f"{' and '.join(f'{name}: null' for name in asked)}, or layerwise: false"
            )
        return self

    def dtype_on(self, device: str) -> EvaluatedDtype:
        """What the models are held in on a device."""
        if self.dtype == "auto":
            return "bf16" if device.startswith("cuda") else "fp32"
        return self.dtype

    def counted_on(self, device: str) -> JsonObject:
        """The settings that metrics depend on, the text aside.

        Of whole models in fp32 they are those that there were before there were other ways, so that hashes stay.
        """
        found: JsonObject = self.model_dump(mode="json", exclude={"data", "dtype", "layerwise"})
        dtype = self.dtype_on(device)
        found |= {} if dtype == "fp32" else {"dtype": dtype}
        return found | {"layerwise": True} if self.layerwise else found
