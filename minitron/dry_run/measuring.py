"""Operations of measuring the candidates of a search. Estimates."""

from minitron.dry_run.shapes import Shapes
from minitron.dry_run.training import rounds_tokens
from minitron.estimate.training.operations import forward_operations, training_operations
from minitron.pipeline.sections import candidate_repair
from minitron.recipe.recipe import Recipe


def measuring_operations(recipe: Recipe, shapes: Shapes, candidates: int) -> int:
    """Operations of all candidates: measured as they are cut, repaired and measured again, and the rounds they play."""
    first, rounds = recipe.distill.curriculum[0], recipe.search.tournament
    both = forward_operations(shapes.student, first.seq_len) + forward_operations(shapes.teacher, first.seq_len)
    measured = rounds.sequences * first.seq_len * both
    operations = candidates * measured
    repair = candidate_repair(recipe)
    if repair is not None:
        assert repair.seq_len is not None
        source, student = (forward_operations(shape, repair.seq_len) for shape in (shapes.source, shapes.student))
        # One pass of what is cut over the calibration text and three of the student.
        operations += candidates * (measured + repair.samples * repair.seq_len * (source + 3 * student))
    if recipe.search.choose == "tournament":
        operations += rounds_tokens(recipe, candidates) * training_operations(
            shapes.student, first.seq_len, teacher=shapes.teacher, checkpointing=first.gradient_checkpointing
        )
    return operations
