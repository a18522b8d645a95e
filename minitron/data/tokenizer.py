"""The interface of a tokenizer that packing needs; tokenizers of transformers have it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """A tokenizer of transformers, as far as packing uses it."""

    @property
    def eos_token_id(self) -> int | None:
        """The end-of-text token, which closes each document; None where it names none."""

    @property
    def pad_token_id(self) -> int:
        """The padding token."""

    def get_vocab(self) -> Mapping[str, int]:
        """Every token and its id."""

    def __call__(self, text: list[str], **options: bool) -> Mapping[str, list[list[int]]]:
        """The ids of each text under `input_ids`."""


class DecodingTokenizer(Protocol):
    """A tokenizer of transformers, as far as it gives text back."""

    def decode(
        self, token_ids: list[int], skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """The text of ids."""


class ChatTokenizer(Tokenizer, Protocol):
    """A fast tokenizer of transformers with a chat template, as far as conversations use it."""

    eos_token: str
    is_fast: bool
    name_or_path: str
    backend_tokenizer: Any
    special_tokens_map: Mapping[str, str]

    def get_chat_template(self, chat_template: str | None = None, tools: Sequence[object] | None = None) -> str:
        """The template by its text, or the tokenizer's own."""
