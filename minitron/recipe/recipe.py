"""The recipe: everything a run depends on."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from minitron.errors import RecipeError
from minitron.forecast.settings import ForecastSettings
from minitron.recipe.budget import BudgetSection
from minitron.recipe.devices import DevicesSection
from minitron.recipe.distill import CorrectionSection, DepthFirstSection, DistillSection, TrainSection
from minitron.recipe.evaluate import EvaluateSection
from minitron.recipe.paths import CheckpointPath
from minitron.recipe.prune import PruneSection
from minitron.recipe.score import ScoreSection
from minitron.recipe.search import SearchSection
from minitron.settings import AUTO_DEVICE, Seed, Settings

FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Recipe(Settings):
    """A whole run: teacher, calibration, budget, search, pruning, distillation and evaluation; validated, immutable."""

    version: Literal[1] = Field(description="Version of the recipe's form.")
    name: str = Field(description="Name of the run; its folder is runs/NAME unless --output names another.")
    teacher: CheckpointPath = Field(
        description="Checkpoint folder, relative to the recipe, or owner/name or owner/name@revision on the hub."
    )
    seed: Seed = Field(default=0, description="Seed of every random choice.")
    device: str = Field(
        default="cpu",
        description="torch device that models run on; auto: cuda where torch sees a CUDA device, else cpu.",
    )
    score: ScoreSection
    depth_first: DepthFirstSection | None = Field(
        default=None, description="Cut blocks and distill before anything else; depth and widths together when null."
    )
    budget: BudgetSection
    search: SearchSection
    prune: PruneSection = PruneSection()
    correct_teacher: CorrectionSection | None = Field(
        default=None, description="Fine-tune the teacher on the distillation's text first (2408.11796); null: do not."
    )
    distill: DistillSection
    evaluate: EvaluateSection
    forecast: ForecastSettings = Field(
        default=ForecastSettings(), description="What `minitron forecast` measures before it predicts."
    )
    devices: DevicesSection | None = Field(default=None, description="What a dry run counts hours for.")

    @field_validator("name")
    @classmethod
    def _folder_name(cls, name: str) -> str:
        if not FOLDER_NAME.fullmatch(name):
            raise RecipeError("must name a folder in runs/: letters, digits, '.', '_' and '-', a letter or digit first")
        return name

    @model_validator(mode="after")
    def _depth_once(self) -> "Recipe":
        if self.depth_first is not None and self.search.num_hidden_layers is not None:
            raise RecipeError("either depth_first or search.num_hidden_layers cuts blocks, not both")
        return self

    @model_validator(mode="after")
    def _students_of_one_width(self) -> "Recipe":
        if self.distill.students and self.prune.block_widths is not None:
            raise RecipeError(
                "distill.students need FFN widths that are the same in every block, leave prune.block_widths out"
            )
        return self

    @model_validator(mode="after")
    def _device_has_what_it_takes(self) -> "Recipe":
        self._check_device()
        return self

    def _check_device(self) -> None:
        on_cuda = self.device == AUTO_DEVICE or self.device.startswith("cuda")
        if on_cuda:
            return
        if any(section.offload_activations for section in self.trained):
            raise RecipeError(f"offload_activations needs a CUDA device, got device {self.device}")
        if any(section.precision == "fp8" for section in self.trained):
            raise RecipeError(
                f"precision fp8 needs a CUDA device of capability 8.9 or above, got device {self.device}; use bf16"
            )

    def on_device(self, device: str) -> "Recipe":
        """The recipe on the device that `auto` stands for.

        Raises:
            RecipeError: Something in it needs another device.
        """
        found = self.model_copy(update={"device": device})
        found._check_device()
        return found

    @property
    def trained(self) -> tuple[TrainSection, ...]:
        """Everything that is trained, stage by stage."""
        first = () if self.depth_first is None else self.depth_first.distill.curriculum
        corrected = () if self.correct_teacher is None else (self.correct_teacher,)
        return (*self.distill.curriculum, *first, *corrected)
