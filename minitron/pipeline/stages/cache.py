"""Stage `cache`: teacher + text -> the teacher's best tokens, two caches for each phase of the distillation."""

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.finite import naming_weights
from minitron.data.masks import PackedSequences
from minitron.distill.teachers.cache_file import CacheContents
from minitron.distill.teachers.cache_writer import write_teacher_cache
from minitron.distill.teachers.teacher import Teacher
from minitron.pipeline import fingerprints
from minitron.pipeline.context import StageContext
from minitron.pipeline.sections import teaching_checkpoint
from minitron.pipeline.teacher_caches import CACHE_FOLDER, SEQUENCES_FILE, VALIDATION_FOLDER, phase_folder
from minitron.pipeline.training import layerwise_teacher, online_teacher, packed_text
from minitron.recipe.distill import DistillSection

MOST_SEQUENCES_AT_ONCE = 8  # unless the recipe says how many fit


def run(context: StageContext) -> None:
    """Writes the caches; resumes an interrupted attempt."""
    recipe, ranks, folder = context.recipe, context.ranks, teaching_checkpoint(context.recipe, context.run)
    checkpoint = open_checkpoint(folder)
    for position, phase in enumerate(recipe.distill.curriculum):
        own = phase_folder(context.output, position)
        text = packed_text(phase, folder, own / SEQUENCES_FILE, seed=recipe.seed, ranks=ranks)
        contents = CacheContents(
            vocab_size=checkpoint.shape.vocab_size,
            top_k=phase.teacher.top_k,
            drawn_tokens=phase.drawn_tokens,
            temperature=phase.loss.temperature,
            made_from={"teacher": fingerprints.teacher(recipe), **fingerprints.cached_phase(phase)},
        )
        with naming_weights(checkpoint):
            for name, sequences_NT in ((CACHE_FOLDER, text.sequences_NT), (VALIDATION_FOLDER, text.validation_NT)):
                write_teacher_cache(
                    _teacher(context, phase, sequences_NT),
                    sequences_NT,
                    own / name,
                    contents,
                    batch_size=phase.micro_batch_size or min(phase.batch_size, MOST_SEQUENCES_AT_ONCE),
                    ranks=ranks,
                )


def _teacher(context: StageContext, phase: DistillSection, sequences_NT: PackedSequences) -> Teacher:
    folder = teaching_checkpoint(context.recipe, context.run)
    if phase.teacher.layerwise:
        return layerwise_teacher(folder, phase, sequences_NT, device=context.device)
    return online_teacher(folder, phase, context.ranks, device=context.recipe.device, sharded=False)
