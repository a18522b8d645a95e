"""What a cut of the vocabulary saves and costs: parameters and bits a byte on the same text, before any training.

    python benchmarks/vocabulary.py build/smollm2/teacher --data build/smollm2/text-distillation.jsonl
        --held-out build/smollm2/text-heldout.jsonl docs --sizes 32768 24576 16384 8192

Tokens are counted on `--data`. Excerpts of `--held-out` (a file of text, or a folder whose pages are joined) begin with
the tokenizer's beginning of text, so that every byte is predicted; the same bytes are measured at every size, in each
cut's own tokens. Text of kept tokens costs what it cost but for the softmax, from which the other tokens are gone.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minitron.checkpoints.checkpoint import Checkpoint, carried_files, open_checkpoint
from minitron.checkpoints.weights import copy_files
from minitron.data.documents import read_documents
from minitron.data.sources import TextSource
from minitron.models.axes import Indices
from minitron.pipeline.vocabulary.cut import vocabulary_plan
from minitron.runtime.loading import load_model, load_tokenizer
from minitron.runtime.vocabulary import restrict_vocabulary
from minitron.vocabulary.counting import TokenCounts, count_tokens, template_ids
from minitron.vocabulary.rewriting import named_ids, new_ids, rewrite_tokenizer
from minitron.vocabulary.selection import required_ids, select_tokens
from minitron.vocabulary.settings import VocabularySettings
from minitron.vocabulary.tokenizer_file import read_tokenizer_file


def excerpts(path: Path, number: int, chars: int) -> list[str]:
    """Excerpts of a text, spread over it."""
    if path.is_dir():
        text = "\n".join(page.read_text(encoding="utf-8") for page in sorted(path.glob("*.md")))
    else:
        text = "\n".join(document for document in read_documents(str(path)) if isinstance(document, str))
    starts = np.linspace(0, len(text) - chars, number).astype(int)
    return [text[start : start + chars] for start in starts]


@torch.no_grad()
def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[float, float]:
    """(bits a byte, tokens a character) of texts."""
    bits, tokens = 0.0, 0
    for text in texts:
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        ids_1T = torch.tensor([ids])
        logits_TV = model(ids_1T, use_cache=False).logits[0, :-1].float()
        bits += float(F.cross_entropy(logits_TV, ids_1T[0, 1:], reduction="sum")) / math.log(2)
        tokens += len(ids) - 1
    return bits / sum(len(text.encode()) for text in texts), tokens / sum(map(len, texts))


def kept_tokens(teacher: Checkpoint, counts: TokenCounts, size: int) -> Indices:
    """Ids that are kept of a teacher's vocabulary."""
    file = read_tokenizer_file(teacher.folder)
    named = named_ids(teacher.folder, file) | template_ids(load_tokenizer(teacher.folder))
    required = required_ids(file, teacher.shape.vocab_size, named)
    return select_tokens(counts.counts_V, file, required, VocabularySettings(size=size))


def cut_tokenizer(teacher: Checkpoint, kept: Indices) -> PreTrainedTokenizerBase:
    """The tokenizer that has them alone."""
    with tempfile.TemporaryDirectory() as folder:
        copy_files(carried_files(teacher.folder), Path(folder))
        rewrite_tokenizer(Path(folder), read_tokenizer_file(teacher.folder), new_ids(kept))
        return load_tokenizer(Path(folder))


def main() -> None:
    """Measures the whole vocabulary and every size, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--held-out", nargs="+", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", type=int, required=True)
    parser.add_argument("--excerpts", type=int, default=8)
    parser.add_argument("--chars", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    teacher, tokenizer = open_checkpoint(args.teacher), load_tokenizer(args.teacher)
    texts = {str(path): excerpts(path, args.excerpts, args.chars) for path in args.held_out}
    sources = [TextSource(path=path) for path in args.data]
    counts = count_tokens(sources, tokenizer, teacher.shape.vocab_size, tokens=None, seed=0)
    model, rows = load_model(args.teacher), []
    whole = np.arange(teacher.shape.vocab_size)
    held = whole  # ids of the teacher that the model in memory has, which shrink from size to size
    for size in (len(whole), *sorted(args.sizes, reverse=True)):
        kept = whole if size == len(whole) else kept_tokens(teacher, counts, size)
        positions = {int(old): new for new, old in enumerate(held)}
        if len(kept) < len(held):
            restrict_vocabulary(model, np.asarray([positions[int(old)] for old in kept]))
            held = kept
        own = tokenizer if size == len(whole) else cut_tokenizer(teacher, kept)
        rows.append(
            {
                "size": size,
                "params": vocabulary_plan(teacher, kept).target.params,
                "coverage": float(counts.counts_V[kept].sum() / counts.counts_V.sum()),
                "texts": {name: measure(model, own, found) for name, found in texts.items()},
            }
        )
    table = Table(
        "tokens kept",
        "parameters",
        "of the text's tokens",
        *(f"{name}: bits a byte, tokens a character" for name in texts),
    )
    for row in rows:
        measured = [f"{bits:.4f}, {rate:.4f}" for bits, rate in row["texts"].values()]
        table.add_row(f"{row['size']:,}", f"{row['params']:,}", f"{row['coverage']:.4%}", *measured)
    Console(width=160).print(table)
    if args.json is not None:
        args.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
