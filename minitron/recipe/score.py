"""Recipe section: the text that a teacher is calibrated on, and how units and blocks are scored."""

from pydantic import Field

from minitron.importance.settings import CalibrationSettings
from minitron.recipe.source import Source
from minitron.settings import PositiveInt


class ScoreSection(CalibrationSettings):
    """Calibration."""

    data: tuple[Source, ...] = Field(min_length=1, description="Calibration text.")
    samples: PositiveInt = Field(default=1024, description="Samples; 1024 as published (arXiv 2407.14679).")
    seq_len: PositiveInt = Field(default=4096, description="Tokens a sample.")
    packed: bool = Field(default=True, description="Join documents into full samples; else one padded document each.")
    layerwise: bool = Field(default=False, description="Hold one block in memory at a time, read from the files.")
