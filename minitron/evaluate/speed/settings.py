"""How generation speed is measured. Loads no torch."""

from typing import Literal

from pydantic import Field

from minitron.settings import PositiveInt, Seed, Settings

EngineName = Literal["transformers", "vllm"]


class SpeedSettings(Settings):
    """A wave: as many requests as run at once, all sent together, all of the same lengths."""

    input_tokens: PositiveInt = Field(default=64, description="Tokens of each prompt.")
    output_tokens: PositiveInt = Field(default=64, description="Tokens generated for each.")
    concurrency: PositiveInt = Field(default=8, description="Requests at once.")
    repetitions: PositiveInt = Field(default=3, description="Waves of each model, after one that warms up.")
    seed: Seed = Field(default=0, description="Fixes the tokens of the prompts.")
