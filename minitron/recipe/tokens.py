"""Whether a checkpoint's text is in tokens that its model has, before anything is computed. Loads no torch."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.vocabulary import tokens_beyond
from minitron.data.documents import is_text_file, read_documents
from minitron.data.token_ids import beyond
from minitron.errors import DataError
from minitron.recipe.source import Source


def require_model_tokens(checkpoint: Checkpoint, sources: Iterable[Source]) -> None:
    """Refuses text that holds a token which was added to the tokenizer and not to the model.

    Only where there are such tokens is the text looked through, for them as they are written; what a tokenizer makes of
    other text is looked at as it is packed. Datasets of the hub are not fetched for this.

    Raises:
        DataError: A text holds one; the message names it.
    """
    vocab_size = checkpoint.shape.vocab_size
    tokens = {token: number for number, token in tokens_beyond(checkpoint.folder, vocab_size).items()}
    if not tokens:
        return
    for document in chain.from_iterable(map(_documents, sources)):
        for token, number in tokens.items():
            if token in document:
                raise DataError(beyond(number, token, vocab_size))


def prompts_of(task: str) -> Source:
    """A task's prompts as a source of text."""
    return Source(path=task, field="prompt")


def _documents(source: Source) -> Iterator[str]:
    if is_text_file(source.path) and Path(source.path).is_file():
        yield from read_documents(source.path, field=source.field, split=source.split)
