"""The text that candidates are measured by: what a tournament trains on, and the held-out sequences behind it."""

# N sequences, T tokens

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.data.masks import PackedSequences, PackedText, TokenSequences
from minitron.data.packing import write_sequence_file
from minitron.data.sequence_file import SequenceFile
from minitron.data.sources import Blend
from minitron.data.token_ids import require_model_ids
from minitron.pipeline.calibration import read_samples
from minitron.pipeline.fingerprints import data_hashes
from minitron.pipeline.sections import candidate_repair
from minitron.pipeline.text import text_sources
from minitron.recipe.recipe import Recipe
from minitron.runtime.loading import load_tokenizer

logger = logging.getLogger(__name__)

SEQUENCES_FILE = "text.tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateText:
    """Packed text of the distillation's first phase.

    Attributes:
        train_NT: What a tournament trains on.
        held_out_NT: What candidates are compared on.
    """

    train_NT: PackedSequences
    held_out_NT: PackedSequences


def read_text(recipe: Recipe, source: Checkpoint, folder: Path) -> CandidateText:
    """The text of the first phase, in a file of `folder` that is packed once and opened as it is from then on.

    The held-out sequences lie behind those trained on. Where candidates are repaired, none of them stands in the text
    that repairs are calibrated on, as far as there are such. Text that is too short is repeated, with a warning.
    """
    # A tournament is over within the first phase of a curriculum.
    section, rounds = recipe.distill.curriculum[0], recipe.search.tournament
    train = max(rounds.tokens, default=0) // section.seq_len
    repair, fitted_NT = candidate_repair(recipe), None
    if repair is not None:
        fitted_NT = read_samples(repair, source, seed=recipe.seed).token_ids
    fitted = 0 if fitted_NT is None else -(-fitted_NT.size // section.seq_len)
    tokenizer = load_tokenizer(source.folder)
    sequences_NT = write_sequence_file(
        folder / SEQUENCES_FILE,
        Blend(
            sources=text_sources(section.data),
            seq_len=section.seq_len,
            num_sequences=train + fitted + rounds.sequences,
            seed=recipe.seed,
        ),
        tokenizer,
        made_from={"text": data_hashes(section.data)},
    )
    require_model_ids(sequences_NT, tokenizer, source.shape.vocab_size)
    behind_NT = sequences_NT.part(train)
    return CandidateText(
        train_NT=sequences_NT.part(0, train),
        held_out_NT=behind_NT if fitted_NT is None else unseen(behind_NT, fitted_NT, rounds.sequences),
    )


def unseen(sequences_NT: SequenceFile, seen_NT: TokenSequences, number: int) -> PackedText:
    """The first sequences whose middle half does not stand in other text; where those are too few, others follow."""
    seen = np.ascontiguousarray(seen_NT, dtype=np.int32).tobytes()
    length = sequences_NT.shape[1]
    middle = slice(length // 4, length - length // 4)
    whole = PackedText(ids_NT=sequences_NT[:], counted_NT=sequences_NT.counted(slice(None)))
    stands_there = np.array([row[middle].tobytes() in seen for row in whole.ids_NT])
    missing = number - int((~stands_there).sum())
    if missing > 0:
        logger.warning("%d of %d held-out sequences stand in calibration text, which is short", missing, number)
    return whole.taken(np.argsort(stands_there, kind="stable")[:number])
