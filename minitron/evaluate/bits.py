"""Cross-entropy in bits a byte of text: the unit in which models of different vocabularies are compared."""

# N sequences, T tokens

import math

import numpy as np

from minitron.data.masks import PackedSequences, loss_mask
from minitron.data.tokenizer import DecodingTokenizer


def bits_per_byte(loss: float, sequences_NT: PackedSequences, tokenizer: DecodingTokenizer) -> float | None:
    """Bits a byte of the text that is predicted; None where it holds no byte.

    A token that is no text, such as the end of a document, costs bits and gives no bytes. A character that a sequence
    begins or ends within is counted roughly.

    Args:
        loss: Mean cross-entropy of the tokens that count, in nats.
        sequences_NT: The sequences that it was measured on.
        tokenizer: Whose tokens they are.
    """
    tokens, text_bytes = 0, 0
    for row in range(len(sequences_NT)):
        batch = slice(row, row + 1)
        ids_n, counted_1T = np.asarray(sequences_NT[batch])[0, 1:], loss_mask(sequences_NT, batch)
        if counted_1T is not None:
            ids_n = ids_n[counted_1T[0, 1:]]
        tokens += len(ids_n)
        text = tokenizer.decode(ids_n.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        text_bytes += len(text.encode("utf-8", "surrogatepass"))
    return loss / math.log(2) * tokens / text_bytes if text_bytes else None
