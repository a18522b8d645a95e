"""Whether a checkpoint's text is in tokens that its model has, before anything is computed. Loads no torch."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.vocabulary import tokens_beyond
from minitron.data.documents import read_documents
from minitron.data.formats.jsonl import read_jsonl
from minitron.data.locations import locate
from minitron.data.token_ids import beyond
from minitron.errors import DataError
from minitron.recipe.source import Source


def require_model_tokens(checkpoint: Checkpoint, sources: Iterable[Source], *, task: str | None = None) -> None:
    """Refuses text that holds a token which was added to the tokenizer and not to the model.

    Only where there are such tokens is the text looked through, for them as they are written; what a tokenizer or a
    chat template makes of other text is looked at as it is packed. Datasets of the hub are not fetched for this.

    Args:
        checkpoint: Whose tokenizer reads the text.
        sources: What is read; of conversations the contents of messages.
        task: File of a task, whose prompts are read, too.

    Raises:
        DataError: A text holds one; the message names it.
    """
    vocab_size = checkpoint.shape.vocab_size
    tokens = {token: number for number, token in tokens_beyond(checkpoint.folder, vocab_size).items()}
    if not tokens:
        return
    for text in chain(chain.from_iterable(map(_texts, sources)), () if task is None else _prompts(Path(task))):
        for token, number in tokens.items():
            if token in text:
                raise DataError(beyond(number, token, vocab_size))


def _texts(source: Source) -> Iterator[str]:
    if locate(source.path).on_hub:
        return
    for document in read_documents(source.path, field=source.field, split=source.split, kind=source.kind):
        if isinstance(document, str):
            yield document
        else:
            yield from (str(message["content"]) for message in document.messages)


def _prompts(task: Path) -> Iterator[str]:
    # A prompt that is no text is told by whoever reads the problems.
    yield from (prompt for row in read_jsonl(task) if isinstance(prompt := row.values.get("prompt"), str))
