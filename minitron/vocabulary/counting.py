"""Counts how often each token occurs in a text, as its model's tokenizer and chat template write it."""

# V ids of the model's embeddings

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from minitron.data.chat_templates import ChatTemplate
from minitron.data.conversations import Conversation, Document
from minitron.data.encoding import encode_documents
from minitron.data.sources import Share, TextSource, shuffled_shares
from minitron.data.token_ids import beyond
from minitron.data.tokenizer import Tokenizer
from minitron.errors import DataError
from minitron.models.axes import Indices

DOCUMENTS_AT_ONCE = 256
# So much of each source is looked at again with the cut tokenizer.
SAMPLE_CHARS = 100_000
ALL = 2**62
MARKS = ("<think>\n", "</think>\n", "\n\n")
GREETING: tuple[tuple[str, str], ...] = (("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """How often each token occurs in a text.

    Attributes:
        counts_V: Occurrences by id.
        samples: Source -> the beginning of the text that was counted.
    """

    counts_V: Indices
    samples: dict[str, str]


def count_tokens(
    sources: Sequence[TextSource], tokenizer: Tokenizer, vocab_size: int, *, tokens: int | None, seed: int
) -> TokenCounts:
    """Counts the tokens of a text's sources, prompts included.

    Args:
        sources: Where the text is.
        tokenizer: The model's.
        vocab_size: Ids below it have an embedding.
        tokens: Count so many, of each source its share and of each document once; all when None.
        seed: Fixes which ones.

    Raises:
        DataError: There is no text, or it holds a token that the model has no embedding of.
    """
    counts_V, samples = np.zeros(vocab_size, dtype=np.int64), dict[str, str]()
    for share in shuffled_shares([source.counting_all() for source in sources], tokens or ALL, seed=seed):
        _count_share(share, tokenizer, counts_V, samples)
    if not counts_V.any():
        raise DataError("a vocabulary is cut to the tokens of a text, the text holds none")
    return TokenCounts(counts_V=counts_V, samples=samples)


def _count_share(share: Share, tokenizer: Tokenizer, counts_V: Indices, samples: dict[str, str]) -> None:
    left = share.num_sequences
    for documents in _batches(next(share.rounds)):
        encoded = encode_documents(documents, tokenizer, share.chat)
        ids = np.fromiter(chain.from_iterable(each.ids_n for each in encoded), dtype=np.int64)[:left]
        if len(ids) and ids.max() >= len(counts_V):
            names = {number: token for token, number in tokenizer.get_vocab().items()}
            raise DataError(beyond(int(ids.max()), names.get(int(ids.max())), len(counts_V)))
        counts_V += np.bincount(ids, minlength=len(counts_V))
        text = samples.get(share.path, "")
        if len(text) < SAMPLE_CHARS:
            texts = (each if isinstance(each, str) else _spoken(each) for each in documents)
            samples[share.path] = "\n".join([text, *texts] if text else texts)[:SAMPLE_CHARS]
        left -= len(ids)
        if not left:
            return


def template_ids(tokenizer: Tokenizer) -> set[int]:
    """Ids of what a conversation has around its words: the chat template's own text and the marks of a trace."""
    texts = list(MARKS)
    try:
        talk = [{"role": role, "content": content} for role, content in GREETING]
        template = ChatTemplate(tokenizer)  # type: ignore[arg-type]
        texts.append(template.render(Conversation(messages=talk, where="a greeting"), prompt=True))  # type: ignore[arg-type]
    except DataError:  # no template: whoever reads conversations names one on the source
        pass
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)
    return set(chain.from_iterable(encoded["input_ids"]))


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    for document in documents:
        batch.append(document)
        if len(batch) == DOCUMENTS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _spoken(conversation: Conversation) -> str:
    return "\n".join(str(message["content"]) for message in conversation.messages)
