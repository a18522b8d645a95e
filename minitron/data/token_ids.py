"""Whether token ids are ids of the model: a token that was added to a tokenizer alone has no row of the embeddings."""

# N sequences, T tokens a sequence

import numpy as np

from minitron.data.masks import PackedSequences
from minitron.data.tokenizer import Tokenizer
from minitron.errors import DataError

SEQUENCES_AT_ONCE = 4096
MEND = "resize the model's embeddings, or take the tokenizer that it was trained with"


def require_model_ids(sequences_NT: PackedSequences, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Refuses sequences with an id that the model has no embedding of.

    Only where the tokenizer has such ids at all are the sequences looked at.

    Raises:
        DataError: One has; the message names the token.
    """
    tokens = {number: token for token, number in tokenizer.get_vocab().items()}
    if max(tokens, default=0) < vocab_size:
        return
    for start in range(0, len(sequences_NT), SEQUENCES_AT_ONCE):
        highest = int(np.max(sequences_NT[start : start + SEQUENCES_AT_ONCE], initial=0))
        if highest >= vocab_size:
            raise DataError(beyond(highest, tokens.get(highest), vocab_size))


def beyond(number: int, token: str | None, vocab_size: int) -> str:
    """What is wrong with a token whose id is beyond the embeddings."""
    return (
        f"token ids must be below the model's vocab_size {vocab_size}, the text holds {token!r}, whose id is {number}; "
        f"{MEND}"
    )
