"""Documents as token ids, each closed by the end-of-text token, and which of them a loss counts."""

# n tokens of a document

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from minitron.data.answers import Span, answer_spans
from minitron.data.chat_templates import ChatTemplate
from minitron.data.conversations import Conversation, Document
from minitron.data.records import LossTokens
from minitron.data.special_tokens import closing_token, encode_texts
from minitron.data.tokenizer import ChatTokenizer, Tokenizer
from minitron.errors import DataError


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document in tokens.

    Attributes:
        ids_n: Token ids.
        counted_n: Which tokens a loss counts as next ones; None when all.
    """

    ids_n: list[int]
    counted_n: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """How the conversations of a source become tokens.

    Attributes:
        loss: What a loss counts.
        template: A chat template's text; the tokenizer's own when None.
    """

    loss: LossTokens = None
    template: str | None = None


DEFAULT_CHAT = ChatSettings()


def encode_documents(
    documents: Sequence[Document], tokenizer: Tokenizer, chat: ChatSettings = DEFAULT_CHAT
) -> list[Encoded]:
    """Tokenizes documents; fast tokenizers process them in parallel.

    Around text special tokens are put by `special_tokens`. Of a conversation the template writes all of them, and where
    its text does not end with an end-of-text token, one closes it.

    Raises:
        DataError: Answers of text are asked for, conversations cannot be rendered, or there is no end-of-text token.
    """
    texts = [document for document in documents if isinstance(document, str)]
    if texts and chat.loss == "answers":
        raise DataError("text has no answers to count; leave loss out, or set kind to what the records are")
    conversations = [document for document in documents if isinstance(document, Conversation)]
    plain = map(Encoded, encode_texts(texts, tokenizer) if texts else ())
    chats = iter(_encode_conversations(conversations, tokenizer, chat) if conversations else ())
    return [next(plain) if isinstance(document, str) else next(chats) for document in documents]


def _encode_conversations(
    conversations: Sequence[Conversation], tokenizer: Tokenizer, chat: ChatSettings
) -> list[Encoded]:
    chatting = cast(ChatTokenizer, tokenizer)
    if not chatting.is_fast:
        raise DataError(
            "conversations need a fast tokenizer, which says where its tokens begin, that of "
            f"{chatting.name_or_path} is a slow one; convert it by transformers"
        )
    template = ChatTemplate(chatting, chat.template)
    texts = [template.render(conversation) for conversation in conversations]
    for conversation in conversations:
        template.warn_of_lost_reasoning(conversation)
    backend = _plain_backend(chatting.backend_tokenizer.to_str())
    tokenized = backend.encode_batch(texts, add_special_tokens=False)
    encoded = []
    for conversation, text, tokens in zip(conversations, texts, tokenized, strict=True):
        spans = None if chat.loss == "all" else answer_spans(template, conversation, text)
        encoded.append(_closed(text, tokens.ids, [start for start, _ in tokens.offsets], spans, chatting))
    return encoded


@lru_cache(maxsize=1)
def _plain_backend(serialized: str) -> Any:
    # Offsets of a post-processor may leave spaces out; without one each token begins at its first character.
    from tokenizers import Tokenizer as Fast

    backend = Fast.from_str(serialized)
    backend.post_processor = None
    backend.no_truncation()
    backend.no_padding()
    return backend


def _closed(
    text: str, ids: list[int], starts: list[int], spans: Sequence[Span] | None, tokenizer: ChatTokenizer
) -> Encoded:
    closing = closing_token(tokenizer)
    ends_itself = text.rstrip().endswith(tokenizer.eos_token)
    closed = ids if ends_itself else [*ids, closing]
    if spans is None:
        return Encoded(closed)
    # A token belongs where its first character is.
    counted_n = np.zeros(len(closed), dtype=bool)
    starts_n = np.asarray(starts, dtype=np.int64)
    for start, stop in spans:
        counted_n[: len(ids)] |= (starts_n >= start) & (starts_n < stop)
    if not ends_itself:  # an answer that the template does not end is ended by it
        counted_n[-1] = bool(spans) and spans[-1][1] == len(text)
    return Encoded(closed, counted_n)
