"""A summary of scores by block, for people."""

from dataclasses import asdict, dataclass

from minitron.artifacts.json_files import JsonObject
from minitron.importance.scores import ScoreArray, Scores
from minitron.importance.selection import mamba_heads
from minitron.models.shape import HybridShape


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSummary:
    """How much one block matters, and how unevenly its units do.

    The units are FFN neurons, Mamba heads, attention heads or routed experts.

    Attributes:
        layer: Index of the block.
        kind: Its letter in the pattern.
        depth: Its depth score.
        removed: Its place in the order of a greedy removal, from 1; None where it stays.
        units: Number of its units; None where they have no scores.
        lowest: Lowest score of a unit over the mean.
        highest: Highest score of a unit over the mean.
    """

    layer: int
    kind: str
    depth: float
    removed: int | None
    units: int | None
    lowest: float | None
    highest: float | None

    def to_json(self) -> JsonObject:
        """As JSON."""
        return asdict(self)


def summarize_scores(scores: Scores, shape: HybridShape) -> list[BlockSummary]:
    """The summary of every block of the scored model."""
    summary = []
    for layer, kind in enumerate(shape.hybrid_override_pattern):
        units = _units(scores, layer)
        summary.append(
            BlockSummary(
                layer=layer,
                kind=kind,
                depth=float(scores.depth[layer]),
                removed=scores.removed.index(layer) + 1 if layer in scores.removed else None,
                units=None if units is None else len(units),
                lowest=None if units is None else float(units.min() / units.mean()),
                highest=None if units is None else float(units.max() / units.mean()),
            )
        )
    return summary


def _units(scores: Scores, layer: int) -> ScoreArray | None:
    if layer in scores.mamba:
        return mamba_heads(scores.mamba[layer])
    found = (
        scores.intermediate_size,
        scores.num_attention_heads,
        scores.linear_num_value_heads,
        scores.n_routed_experts,
        scores.moe_shared_expert_intermediate_size,
    )
    return next((units[layer] for units in found if layer in units), None)
