"""Recipe section: the machines of a run; `minitron run --dry-run` counts hours and writes launch commands by it."""

from pydantic import Field, field_validator

from minitron.estimate.devices import find_device
from minitron.settings import Fraction, PositiveInt, Settings


class DevicesSection(Settings):
    """The GPUs that training runs on. Nothing but the printed plan depends on it."""

    gpu: str = Field(default="h100", description="A device profile.")
    nodes: PositiveInt = Field(default=1, description="Machines.")
    gpus_per_node: PositiveInt = Field(default=1, description="GPUs in each.")
    mfu: Fraction = Field(
        default=0.4, description="Assumed share of the peak bf16 rate that training reaches; not measured here."
    )

    @field_validator("gpu")
    @classmethod
    def _known(cls, gpu: str) -> str:
        return find_device(gpu).name

    @property
    def count(self) -> int:
        """GPUs in all."""
        return self.nodes * self.gpus_per_node
