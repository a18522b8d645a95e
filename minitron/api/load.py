"""Opening what lies on the disk: checkpoints, scores and recipes, by paths as a notebook gives them. Loads no torch."""

from collections.abc import Sequence
from pathlib import Path

from minitron.checkpoints import checkpoint as checkpoints
from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.hub import find_checkpoint
from minitron.importance import scores as importance
from minitron.importance.scores import Scores
from minitron.pipeline.run_folder import SCORES_FILE
from minitron.recipe import load as recipes
from minitron.recipe.recipe import Recipe


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Opens a checkpoint folder and checks its headers against its configuration; no weights are read.

    Args:
        folder: Hugging Face checkpoint folder (a `config.json` and one safetensors file, or shards with an index), or
            its name on the hub, as `owner/name` or `owner/name@revision`.

    Returns:
        The checkpoint: `shape` (dims and pattern of blocks), `params`, `weights_bytes`, `config`.

    Raises:
        CheckpointError: Anything is missing, truncated or at odds with the configuration, or the weights are quantized.

    Example:
        ```python
        shape = minitron.open_checkpoint("teacher/").shape
        print(shape.hybrid_override_pattern, shape.hidden_size, f"{shape.params:,}")
        ```
    """
    return checkpoints.open_checkpoint(find_checkpoint(folder))


def load_scores(folder: str | Path) -> Scores:
    """Loads the scores that `calibrate`, `minitron score` or the score stage of a run wrote.

    Args:
        folder: The folder that was written, or the scores file itself.

    Returns:
        The scores: float64 arrays by axis and block, larger means keep.

    Raises:
        MinitronError: The file is missing or holds no scores.

    Example:
        ```python
        scores = minitron.load_scores("scores/")
        worst = scores.depth.argsort()[:4]  # the four blocks that matter least
        ```
    """
    path = Path(folder)
    return importance.load_scores(path / SCORES_FILE if path.is_dir() else path)


def load_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Loads and validates a recipe; every fault is reported at once.

    Args:
        recipe: YAML file. Paths in it are relative to its folder.
        overrides: Settings as `--set` takes them, as in `distill.tokens=200000`.

    Returns:
        The recipe, immutable, every default filled in and every path absolute.

    Raises:
        RecipeError: A key is unknown or a value cannot be used; the message has one line for each.

    Example:
        ```python
        recipe = minitron.load_recipe("recipe.yaml", ["distill.tokens=200000"])
        print(recipe.budget.budget_bytes, recipe.distill.learning_rate)
        ```
    """
    return recipes.load_recipe(Path(recipe), tuple(overrides))
