"""The context that every stage gets: recipe, ranks, run folder and the stage's output."""

from dataclasses import dataclass
from pathlib import Path

from minitron.distributed import Ranks
from minitron.pipeline.run_folder import RunFolder
from minitron.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """The context of a stage.

    Attributes:
        recipe: The recipe; after the vocabulary was cut, its teacher is the one with the kept tokens.
        ranks: The processes of the run.
        run: Where other stages have their results.
        output: The stage's own folder, which becomes `run.stage(name)` when the stage has ended well. The files of an
            interrupted attempt with the same inputs lie in it.
        given_teacher: The teacher as it was given, whole, where the recipe's is another one; else None or the same.
    """

    recipe: Recipe
    ranks: Ranks
    run: RunFolder
    output: Path
    given_teacher: Path | None = None

    @property
    def device(self) -> str:
        """Device of this process: the recipe's, or one of its own where several processes run."""
        return self.recipe.device if self.ranks.world_size == 1 else str(self.ranks.device)

    @property
    def execution(self) -> "Execution":
        """Device and seed."""
        return Execution(device=self.device, seed=self.recipe.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Device of a computation, and the seed of its text's order.

    Attributes:
        device: torch device.
        seed: Seed.
    """

    device: str = "cpu"
    seed: int = 0
