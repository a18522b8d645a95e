"""Base of all settings: validated, immutable, unknown keys refused. A component's settings lie beside the component."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

AUTO_DEVICE = "auto"  # cuda where torch sees a CUDA device, else cpu
SEEDS = 2**32  # numpy takes whole numbers below
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Settings(BaseModel):
    """Settings that are validated when made and never change; an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
