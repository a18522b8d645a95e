"""What one process takes that measures candidates, and whether several of them have room. Estimates."""

from collections.abc import Sequence
from pathlib import Path

from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.errors import MinitronError
from minitron.evaluate.teacher_states import KEPT_BYTES
from minitron.pipeline.sections import candidate_repair
from minitron.recipe.recipe import Recipe
from minitron.runtime.free_memory import free_bytes
from minitron.search.solver import Candidate
from minitron.units import GIB, MIB

# torch, transformers and their libraries, as a fresh process on Linux takes them.
LIBRARIES_BYTES = 400 * MIB
# Logits of a chunk of held-out tokens, of teacher and student, with their log-softmax: evaluate.perplexity.
LOGITS_TOKENS, LOGITS_COPIES = 2048, 5


def process_bytes(recipe: Recipe, source: Checkpoint, candidates: Sequence[Candidate]) -> int:
    """Bytes of one process: models in fp32, logits, states of the teacher, and a repair's streams and largest solve."""
    teacher = open_checkpoint(Path(recipe.teacher))
    held = [teacher.params, max(each.shape.params for each in candidates)]
    if source.folder.resolve() != teacher.folder.resolve():
        held.append(source.params)
    total = LIBRARIES_BYTES + 4 * sum(held) + 4 * LOGITS_COPIES * LOGITS_TOKENS * source.shape.vocab_size
    held_out = recipe.search.tournament.sequences * recipe.distill.curriculum[0].seq_len
    total += min(KEPT_BYTES, 4 * held_out * teacher.shape.hidden_size)
    repair = candidate_repair(recipe)
    if repair is not None:
        assert repair.seq_len is not None
        # Before and after a block for each model, and the teacher's targets.
        total += 4 * repair.samples * repair.seq_len * 5 * source.shape.hidden_size
        total += _largest_solve_bytes(source)
    return total


def require_memory(recipe: Recipe, source: Checkpoint, candidates: Sequence[Candidate], processes: int) -> None:
    """Refuses more processes than there is memory for; one is never refused.

    Raises:
        MinitronError: The device has less free than they take.
    """
    free = free_bytes(recipe.device)
    if processes == 1 or free is None:
        return
    each = process_bytes(recipe, source, candidates)
    if processes * each > free:
        raise MinitronError(
            f"search.processes={processes} needs about {processes * each / GIB:.2f} GiB ({each / GIB:.2f} GiB each), "
            f"{recipe.device} has {free / GIB:.2f} GiB free; set at most {max(1, free // each)}"
        )


def _largest_solve_bytes(source: Checkpoint) -> int:
    # fp64: moments, system and factor [C, C]; cross moments, solution and copies [D, C].
    names = {source.shape.family.embeddings, source.shape.family.head}
    matrices = [one.shape for name, one in source.tensors.items() if len(one.shape) == 2 and name not in names]
    return max((24 * c * c + 56 * c * d for d, c in matrices), default=0)
