"""Whether what a recipe trains on fills its batches and rounds."""

from minitron.errors import RecipeError
from minitron.recipe.distill import DistillSection, TrainSection
from minitron.recipe.recipe import Recipe


def check_lengths(recipe: Recipe) -> None:
    """Refuses stages of training that cannot be followed.

    Raises:
        RecipeError: A stage has less than one batch, a batch cannot be shared out, rounds of a tournament end at one
            step, or the first of two steps asks for a cached teacher.
    """
    _check_curriculum("distill", recipe.distill)
    if recipe.search.choose == "tournament":
        rounds, first = recipe.search.tournament.tokens, recipe.distill.curriculum[0]
        _check_tokens("search.tournament", first, min(rounds))
        steps = [tokens // (first.batch_size * first.seq_len) for tokens in rounds]
        if len(set(steps)) < len(steps):
            raise RecipeError(f"every round of a tournament must train at least one batch, they end at steps {steps}")
    if recipe.depth_first is not None:
        _check_curriculum("depth_first.distill", recipe.depth_first.distill)
        if recipe.depth_first.distill.teacher.mode == "cached":
            raise RecipeError(
                "depth_first.distill.teacher.mode must be online or layerwise, caches are of distill alone"
            )
    if recipe.correct_teacher is not None:
        _check_tokens("correct_teacher", recipe.correct_teacher, recipe.correct_teacher.tokens)


def _check_curriculum(name: str, section: DistillSection) -> None:
    for stage, found in zip(section.phase_names, section.curriculum, strict=True):
        _check_tokens(f"{name}.phases.{stage}" if section.phases else name, found, found.tokens or 0)
        if found.micro_batch_size is not None and found.batch_size % found.micro_batch_size:
            raise RecipeError(
                f"{name}.micro_batch_size must divide the batch of {found.batch_size} blocks in stage {stage}, got "
                f"{found.micro_batch_size}"
            )


def _check_tokens(name: str, section: TrainSection, tokens: int) -> None:
    batch_tokens = section.batch_size * section.seq_len
    if tokens < batch_tokens:
        raise RecipeError(
            f"{name}.tokens must fill one batch of {section.batch_size} x {section.seq_len} = {batch_tokens:,} tokens, "
            f"got {tokens:,}"
        )
