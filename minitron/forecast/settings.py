"""Settings of a forecast."""

from typing import Annotated

from pydantic import Field

from minitron.settings import NonNegativeInt, PositiveInt, Settings


class ForecastSettings(Settings):
    """What is measured so that KL can be predicted for shapes that are not."""

    levels: PositiveInt = Field(
        default=3, description="Sizes of each axis that are measured with all other axes whole, of those searched."
    )
    mixes: NonNegativeInt = Field(default=10, description="Shapes measured that cut several axes at once.")
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.9,
        description="Share of new shapes that are to be inside the interval, by the jackknife+ (1905.02928).",
    )
