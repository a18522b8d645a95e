"""Special tokens around a text: put there here and nowhere else, and once, whatever a tokenizer's own calls would add.

Tokenizers bring a post-processor that may begin a text, close it, do both or neither. What begins a text is kept, since
models are trained with it. A document is closed by the end-of-text token, and by it alone; a prompt ends where its text
ends, since a model that reads an end of text has nothing to add. Of a conversation the chat template writes all special
tokens; one that does not end with the end of text is closed by it, too.
"""

from collections.abc import Sequence

from minitron.data.tokenizer import Tokenizer
from minitron.errors import DataError

PROBE = "a"


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Ids of each document of text, closed by the end-of-text token.

    Raises:
        DataError: The tokenizer has no end-of-text token.
    """
    closing = closing_token(tokenizer)
    encoded = encode_prompts(texts, tokenizer)
    return [ids if ids and ids[-1] == closing else [*ids, closing] for ids in encoded]


def encode_prompts(prompts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Ids of each text, with what begins a text and without what closes one."""
    begins = leading_tokens(tokenizer)
    # Texts longer than the model's context are fine: they are cut afterwards.
    encoded = tokenizer(list(prompts), add_special_tokens=False, verbose=False, return_attention_mask=False)
    return [ids if _begins(ids, begins) else [*begins, *ids] for ids in encoded["input_ids"]]


def leading_tokens(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer's own calls put before a text."""
    options = {"verbose": False, "return_attention_mask": False}
    (whole,) = tokenizer([PROBE], **options)["input_ids"]
    (plain,) = tokenizer([PROBE], add_special_tokens=False, **options)["input_ids"]
    added = len(whole) - len(plain)
    before = next((start for start in range(added + 1) if whole[start : start + len(plain)] == plain), 0)
    return whole[:before]


def closing_token(tokenizer: Tokenizer) -> int:
    """The end-of-text token.

    Raises:
        DataError: There is none.
    """
    if tokenizer.eos_token_id is None:
        raise DataError(
            "a document must be closed by an end-of-text token, and neither the tokenizer, generation_config.json nor "
            "config.json names one; set eos_token in tokenizer_config.json"
        )
    return tokenizer.eos_token_id


def _begins(ids: Sequence[int], begins: Sequence[int]) -> bool:
    # A template may have written the token out already.
    return not begins or list(ids[: len(begins)]) == list(begins)
