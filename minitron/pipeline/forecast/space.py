"""What a forecast is about: a run's scored source, the shapes that are searched, and the importance they lose."""

# C units of an axis

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.errors import MinitronError
from minitron.forecast.least_squares import Numbers
from minitron.forecast.record import CutSizes
from minitron.importance.scores import Scores, load_scores
from minitron.models.axes import SizeT
from minitron.pipeline.candidates.space import scored_space
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.sections import cut_source
from minitron.recipe.recipe import Recipe
from minitron.search.design import LAYERS
from minitron.search.solver import Candidate, Shares, axis_shares
from minitron.search.space import SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastSpace:
    """A scored source and the shapes that are searched.

    Attributes:
        source: The checkpoint that is cut.
        scores: Its scores.
        space: The shapes.
        shares: Kept blocks -> what the best units of each number keep; see `minitron.search.solver.Shares`.
    """

    source: Checkpoint
    scores: Scores
    space: SearchSpace
    shares: Shares

    def lost(self, layers: Sequence[int], sizes: Mapping[str, SizeT]) -> dict[str, Numbers]:
        """Axis -> share of its importance that is lost, for one choice of blocks and one shape or arrays of sizes.

        Widths are counted over all of the source's blocks, whichever stay, so that each axis's share is its own.
        """
        shape = self.source.shape
        kept = axis_shares(self.shares(tuple(range(shape.num_hidden_layers))), sizes, shape)
        kept[LAYERS] = self.shares(tuple(layers))[LAYERS][0]
        return {axis: 1 - share for axis, share in kept.items()}

    def cut_sizes(self, candidate: Candidate) -> CutSizes:
        """A candidate in numbers."""
        source, shape = self.source.shape, candidate.shape
        lost = self.lost(candidate.layers, shape.sizes)
        return CutSizes(
            num_hidden_layers=len(candidate.layers),
            sizes={axis: shape.sizes[axis] for axis in source.family.axes if shape.sizes[axis] != source.sizes[axis]},
            total_bytes=candidate.memory.total_bytes,
            weights_bytes=candidate.memory.weights_bytes,
            lost={axis: float(share) for axis, share in lost.items() if share > 0},
        )


def open_space(recipe: Recipe, run: RunFolder) -> ForecastSpace:
    """The scored source of a run and the shapes that its recipe searches.

    Args:
        recipe: The recipe as stages after `vocabulary` follow it.
        run: The run, whose scores are there.
    """
    source, scores = open_checkpoint(cut_source(recipe, run)), load_scores(run.scores)
    space, shares = scored_space(recipe, source.shape, scores)
    return ForecastSpace(source=source, scores=scores, space=space, shares=shares)


def require_scores(space: ForecastSpace, cut: CutSizes) -> None:
    """Refuses a cut of an axis that nothing is known of.

    Raises:
        MinitronError: It loses nothing that scores know of.
    """
    if not cut.lost:
        named = ", ".join(cut.sizes) or LAYERS
        raise MinitronError(
            f"a forecast goes by the importance that is lost, {named} has no scores or loses nothing by them; leave "
            f"it out of the search"
        )
