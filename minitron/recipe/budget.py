"""What the student must keep to: memory at a workload, parameters, throughput."""

from pydantic import Field, model_validator

from minitron.errors import RecipeError
from minitron.estimate.devices import Device, find_device, usable_bytes
from minitron.estimate.serving.reader_names import ReaderName
from minitron.estimate.serving.shape_rules import Serving
from minitron.estimate.serving.workload import Lengths, Workload
from minitron.search.limits import Limits
from minitron.settings import Fraction, NonNegativeFloat, PositiveInt
from minitron.units import GIB, gib_to_bytes

# Keys that a student's config.json has wherever a reader's rule asks for them: `models.config.config_for_shape`.
STUDENT_KEYS = ("mamba_d_head",)


class ThroughputSection(Lengths):
    """What throughput is predicted for; the rates of a GPU without a profile are given."""

    gpu: str | None = Field(default=None, description="A device profile; the budget's when null.")
    bandwidth_gb_s: float | None = Field(default=None, gt=0, description="Peak bandwidth, 10^9 bytes a second.")
    bf16_tflops: float | None = Field(default=None, gt=0, description="Peak dense bf16 rate, 10^12 a second.")
    fp8_tflops: float | None = Field(default=None, gt=0, description="Peak dense fp8 rate, where there are fp8 cores.")

    @model_validator(mode="after")
    def _profile_or_rates(self) -> "ThroughputSection":
        given = (self.bandwidth_gb_s is not None, self.bf16_tflops is not None)
        if any(given) and (not all(given) or self.gpu is not None):
            raise RecipeError("either gpu, or both of bandwidth_gb_s and bf16_tflops can be given")
        if self.gpu is not None:
            find_device(self.gpu)
        return self


class BudgetSection(Workload):
    """What the student must keep to: exactly one of gpu, memory_gib and memory_bytes, the workload, other limits."""

    gpu: str | None = Field(default=None, description="A device profile, whose visible memory is the budget.")
    memory_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Memory in GiB.")
    memory_bytes: int | None = Field(default=None, gt=0, description="Memory in bytes.")
    utilization: Fraction | None = Field(
        default=None, description="Share of the memory that may be used; 0.95 (plain) or 0.92 (vllm) when null."
    )
    reserved_gib: NonNegativeFloat = Field(
        default=0.0, description="GiB set aside for others, as 1.3 for a vision encoder."
    )
    max_params: PositiveInt | None = Field(default=None, description="Most parameters.")
    min_tokens_per_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Least predicted output tokens a second."
    )
    throughput: ThroughputSection = ThroughputSection()
    readers: tuple[ReaderName, ...] = Field(
        default=(), description="Engines that must take the student: no shape that one refuses is a candidate."
    )
    tensor_parallel: PositiveInt = Field(default=1, description="GPUs that those engines split every matrix over.")

    @model_validator(mode="after")
    def _one_memory(self) -> "BudgetSection":
        given = [self.gpu, self.memory_gib, self.memory_bytes]
        if sum(value is not None for value in given) != 1:
            raise RecipeError("exactly one of gpu, memory_gib and memory_bytes must be given")
        if self.gpu is not None:
            find_device(self.gpu)
        if self.min_tokens_per_s is not None and self.device is None:
            raise RecipeError("min_tokens_per_s needs a gpu: give budget.gpu or budget.throughput")
        return self

    @property
    def budget_bytes(self) -> int:
        """Bytes that the student may need in total."""
        if self.gpu is not None:
            memory = find_device(self.gpu).visible_bytes
        elif self.memory_gib is not None:
            memory = gib_to_bytes(self.memory_gib)
        else:
            memory = self.memory_bytes or 0
        return usable_bytes(
            memory, utilization=self.utilization, reserved_gib=self.reserved_gib, accounting=self.accounting
        )

    @property
    def device(self) -> Device | None:
        """The GPU that throughput is predicted for; None predicts none."""
        rates = self.throughput
        if rates.bandwidth_gb_s is not None:
            return Device(
                name="custom",
                visible_gib=self.budget_bytes / GIB,
                bandwidth_gb_s=rates.bandwidth_gb_s,
                bf16_tflops=rates.bf16_tflops,
                fp8_tflops=rates.fp8_tflops,
                source="the recipe",
            )
        name = rates.gpu or self.gpu
        return None if name is None else find_device(name)

    @property
    def limits(self) -> Limits:
        """The limits as the solver takes them."""
        return Limits(
            budget_bytes=self.budget_bytes,
            max_params=self.max_params,
            min_tokens_per_s=self.min_tokens_per_s,
            device=self.device,
            lengths=self.throughput,
            serving=Serving(
                readers=self.readers, tensor_parallel=self.tensor_parallel, config_keys=frozenset(STUDENT_KEYS)
            ),
        )

    @property
    def workload(self) -> Workload:
        """The workload alone."""
        return self.changed()
