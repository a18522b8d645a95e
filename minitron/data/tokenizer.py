"""The interface of a tokenizer that packing needs; tokenizers of transformers have it."""

from collections.abc import Mapping
from typing import Protocol


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
