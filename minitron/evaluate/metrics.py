"""Metrics of a model, as in `metrics.json` and `minitron eval --json`."""

from dataclasses import asdict, dataclass

from minitron.artifacts.json_files import JsonObject
from minitron.estimate.serving.memory import MemoryBytes
from minitron.evaluate.speed.wave import Speed

TASK_KEYS = ("task", "exact_match", "problems")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Metrics of one model.

    Attributes:
        params: Parameters.
        memory: Bytes at the workload.
        loss: Held-out cross-entropy, nats a token.
        bits_per_byte: The same in bits a byte of text, which models of different vocabularies are compared by.
        kl_to_teacher: Forward KL from the teacher on the same text, nats a token; None without a teacher.
        speed: Generation speed in transformers; its ratio is to the teacher. None where it was not measured.
        task: The task's name; None without one, as are the next two.
        exact_match: Fraction of the problems that are answered exactly.
        problems: Number of problems.
    """

    params: int
    memory: MemoryBytes
    loss: float
    kl_to_teacher: float | None
    speed: Speed | None
    bits_per_byte: float | None = None
    task: str | None = None
    exact_match: float | None = None
    problems: int | None = None

    def to_json(self) -> JsonObject:
        """As JSON; without a task its keys are left out."""
        found: JsonObject = asdict(self)
        return {key: value for key, value in found.items() if self.task is not None or key not in TASK_KEYS}
