"""Proof that a checkpoint's family is cut exactly: the laws of pruning, on a tiny random model of its configuration."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from minitron.artifacts.json_files import JsonObject, as_json
from minitron.models.config import read_config, shape_from_config

if TYPE_CHECKING:
    from minitron.prune.laws.laws import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What the laws found.

    Attributes:
        model: Checkpoint folder or `config.json`.
        model_type: Its family.
        blocks: Letter of a kind of block -> what it is, of the kinds that the model has.
        sizes: The tiny model's sizes, by their names in configurations.
        findings: What each law found.
    """

    model: Path
    model_type: str
    blocks: Mapping[str, str]
    sizes: Mapping[str, int]
    findings: tuple["Finding", ...]

    @property
    def holds(self) -> bool:
        """Whether every law holds."""
        return all(found.holds for found in self.findings)

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each law that does not hold."""
        return tuple(
            f"{found.law} of {found.axis} does not hold for {self.model_type}: "
            + (found.fault or f"logits are {found.apart:.1e} apart")
            for found in self.findings
            if not found.holds
        )

    def to_json(self) -> JsonObject:
        """The object that `minitron verify --json` prints."""
        return as_json({**asdict(self), "model": str(self.model), "holds": self.holds})


def verify(model: str | Path, *, seed: int = 0) -> Verified:
    """Proves on a tiny random model of a checkpoint's configuration that cutting it is exact; takes seconds.

    No weights are read. The tiny model is of the same class and has the same settings (biases, norms, positions,
    multipliers, routing, windows), every kind of block and dims that are all distinct, in fp64. Cut along every axis,
    it must give the logits of the whole model in which the same units are put out of action; with every axis in another
    order, the same logits; and have as many parameters as were counted.

    Args:
        model: Checkpoint folder or `config.json`.
        seed: Fixes the tiny model.

    Returns:
        `holds`, `findings` (law, axis, relative distance of logits), `lines` that say what does not hold, `to_json()`.

    Raises:
        MinitronError: The configuration cannot be read, or its family is not declared.

    Example:
        ```python
        found = minitron.verify("teacher/")
        print(found.holds, found.lines)
        ```
    """
    path = Path(model)
    config = read_config(path)
    shape = shape_from_config(config)

    from minitron.prune.laws.laws import check_laws, tiny_like

    tiny = tiny_like(shape, seed=seed)
    with _one_thread():
        findings = tuple(check_laws(config, tiny, seed=seed))
    kinds = shape.family.block_kinds
    return Verified(
        model=path,
        model_type=shape.model_type,
        blocks={letter: kinds[letter] for letter in dict.fromkeys(shape.hybrid_override_pattern)},
        sizes={key: int(size) for key, size in tiny.config_sizes.items()},
        findings=findings,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tiny products on several threads wait for each other, on a busy machine for a thousand times as long."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
