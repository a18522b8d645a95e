"""The text that candidates are measured by: what a tournament trains on, and the held-out sequences behind it."""

# N sequences, T tokens

from dataclasses import dataclass
from pathlib import Path

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.data.masks import PackedSequences
from minitron.data.packing import write_sequence_file
from minitron.data.sources import Blend
from minitron.data.token_ids import require_model_ids
from minitron.pipeline.fingerprints import data_hashes
from minitron.pipeline.sections import candidate_repair
from minitron.pipeline.text import text_sources
from minitron.recipe.recipe import Recipe
from minitron.runtime.loading import load_tokenizer

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

    The held-out sequences lie behind those trained on, and behind as many as a repair is calibrated on, so that none is
    held out of text that it was just fitted to. Text that is too short for both is repeated, with a warning.
    """
    # A tournament is over within the first phase of a curriculum.
    section, rounds = recipe.distill.curriculum[0], recipe.search.tournament
    train = max(rounds.tokens, default=0) // section.seq_len
    repair, fitted = candidate_repair(recipe), 0
    if repair is not None:
        assert repair.seq_len is not None
        fitted = -(-repair.samples * repair.seq_len // section.seq_len)
    before = max(train, fitted)
    tokenizer = load_tokenizer(source.folder)
    sequences_NT = write_sequence_file(
        folder / SEQUENCES_FILE,
        Blend(
            sources=text_sources(section.data),
            seq_len=section.seq_len,
            num_sequences=before + rounds.sequences,
            seed=recipe.seed,
        ),
        tokenizer,
        made_from={"text": data_hashes(section.data)},
    )
    require_model_ids(sequences_NT, tokenizer, source.shape.vocab_size)
    return CandidateText(train_NT=sequences_NT.part(0, train), held_out_NT=sequences_NT.part(before))
