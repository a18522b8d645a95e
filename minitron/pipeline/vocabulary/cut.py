"""Cuts a checkpoint's vocabulary to the tokens of a text: embeddings, head, tokenizer and ids that files name."""

import logging
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from minitron.artifacts.json_files import write_json
from minitron.checkpoints.checkpoint import VOCABULARY_FILE, Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.checkpoints.lineage import lineage_of
from minitron.checkpoints.writing.journal import is_unfinished
from minitron.errors import MinitronError
from minitron.models.axes import VOCABULARY, Indices
from minitron.models.keep import Keep
from minitron.pipeline.fingerprints import data_hashes
from minitron.pipeline.provenance import write_provenance
from minitron.pipeline.text import text_sources
from minitron.prune.checkpoint import OutputFormat, prune_checkpoint
from minitron.prune.plan import PrunePlan
from minitron.recipe.prune import VocabularySection
from minitron.runtime.loading import load_tokenizer
from minitron.units import gib_to_bytes
from minitron.vocabulary.counting import TokenCounts, count_tokens, template_ids
from minitron.vocabulary.kept_tokens import write_kept_tokens
from minitron.vocabulary.languages import compare_lengths
from minitron.vocabulary.record import VocabularyRecord
from minitron.vocabulary.rewriting import named_ids, new_ids, rewrite_tokenizer
from minitron.vocabulary.selection import required_ids, select_tokens
from minitron.vocabulary.tokenizer_file import read_tokenizer_file

logger = logging.getLogger(__name__)


def vocabulary_plan(source: Checkpoint, kept: Indices) -> PrunePlan:
    """The plan that keeps some tokens and everything else.

    Args:
        source: The checkpoint.
        kept: Ids that are kept, in their new order.
    """
    shape = source.shape
    keep = Keep(layers=tuple(range(shape.num_hidden_layers)), indices={(VOCABULARY.name, None): kept})
    return PrunePlan(source=shape, target=replace(shape, vocab_size=len(kept)), keep=keep)


def cut_vocabulary(
    source: Checkpoint, section: VocabularySection, output: Path, *, seed: int = 0, shard_gib: float = 4.0
) -> Checkpoint:
    """Writes a checkpoint with the tokens of a text alone, and a record of what that costs beside it.

    What it computes for kept tokens is what the source computes; other text falls apart into kept tokens. The folder
    is the caller's alone; an interrupted call is resumed. The record is written last.

    Args:
        source: The checkpoint.
        section: The text, and how many tokens are kept.
        output: The folder of the new one.
        seed: Fixes which text is counted where not all is.
        shard_gib: Largest file of weights.

    Raises:
        MinitronError: The tokenizer is of a kind that is not cut, the text holds nothing, or so few tokens cannot be
            kept.
    """
    if not section.data:
        raise MinitronError("vocabulary.data must name the text whose tokens are kept")
    vocab_size, file = source.shape.vocab_size, read_tokenizer_file(source.folder)
    tokenizer = load_tokenizer(source.folder)
    named = named_ids(source.folder, file) | template_ids(tokenizer) | set(tokenizer.all_special_ids)
    required = required_ids(file, vocab_size, named)
    counts = count_tokens(text_sources(section.data), tokenizer, vocab_size, tokens=section.tokens, seed=seed)
    kept = select_tokens(counts.counts_V, file, required, section)
    if not is_unfinished(output):
        shutil.rmtree(output, ignore_errors=True)
    format = OutputFormat(shard_bytes=gib_to_bytes(shard_gib))
    lineage = lineage_of(source, hashes=checkpoint_hashes(source.folder))
    written = prune_checkpoint(source, vocabulary_plan(source, kept), output, format)
    rewrite_tokenizer(output, file, new_ids(kept))
    write_kept_tokens(output, kept, vocab_size)
    written = open_checkpoint(output)
    record = _record(source, written, counts, kept, len(required))
    write_provenance(
        written,
        lineage,
        "vocabulary",
        vocab_size=len(kept),
        coverage=record.coverage,
        settings=section.model_dump(mode="json", exclude={"data"}),
        data=[*data_hashes(section.data)],
    )
    write_json(output.with_name(VOCABULARY_FILE), asdict(record))
    return written


def _record(
    source: Checkpoint, written: Checkpoint, counts: TokenCounts, kept: Indices, required: int
) -> VocabularyRecord:
    total, before, after = int(counts.counts_V.sum()), load_tokenizer(source.folder), load_tokenizer(written.folder)
    record = VocabularyRecord(
        before=source.shape.vocab_size,
        after=len(kept),
        required=required,
        counted_tokens=total,
        coverage=int(counts.counts_V[kept].sum()) / total,
        params_before=source.params,
        params_after=written.params,
        lengths=compare_lengths(counts.samples, before, after),
    )
    logger.info(
        "%s: %d of %d tokens are kept, %.4f%% of the text's; %d of %d parameters",
        *(
            written.folder,
            record.after,
            record.before,
            100 * record.coverage,
            record.params_after,
            record.params_before,
        ),
    )
    for length in record.lengths:
        rates = (tokens / max(1, length.characters) for tokens in (length.before, length.after))
        logger.info("%s: %.3f tokens a character before, %.3f after", length.text, *rates)
    return record
