"""A checkpoint's byte-level BPE tokenizer as the keys of a GGUF file, from its JSON files alone."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from minitron.artifacts.json_files import read_json
from minitron.checkpoints.vocabulary import read_tokenizer_json
from minitron.errors import MinitronError
from minitron.integrations.gguf.family import Config, Value
from minitron.integrations.gguf.pre_tokenizers import (
    find_pre_tokenizer,
    is_byte_level,
    known_pre_tokenizer,
    refuse_unknown,
)
from minitron.integrations.gguf.special_tokens import chat_template, special_ids, text_ends

logger = logging.getLogger(__name__)

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
# Kinds of token, as llama.cpp numbers them (gguf 0.19, gguf/constants.py: TokenType).
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTokenizer:
    """A tokenizer in a GGUF file.

    Attributes:
        pre: llama.cpp's name of the pre-tokenizer.
        tokens: Text of each id, no two alike. There is one for each row of the embeddings: `[PAD5]` where no token has
            the id 5.
        types: Kind of each id.
        merges: Pairs of tokens, the first one merged first.
        special: Key, such as `eos_token_id`, -> id.
        adds: Whether the bos token is put before a text, and the eos token behind it.
        template: The chat template, if there is one.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    special: Mapping[str, int]
    adds: tuple[bool, bool]
    template: str | None

    def keys(self) -> dict[str, Value]:
        """The metadata, by full names."""
        found: dict[str, Value] = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": self.pre,
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": self.types,
            "tokenizer.ggml.merges": self.merges,
            **{f"tokenizer.ggml.{name}": number for name, number in self.special.items()},
            "tokenizer.ggml.add_bos_token": self.adds[0],
            "tokenizer.ggml.add_eos_token": self.adds[1],
        }
        return found if self.template is None else {**found, "tokenizer.chat_template": self.template}


def read_tokenizer(folder: Path, config: Config, vocab_size: int, *, pre_tokenizer: str | None) -> GgufTokenizer:
    """The tokenizer of a checkpoint folder.

    Args:
        folder: The folder.
        config: The model's configuration, which names special tokens that the tokenizer's files do not.
        vocab_size: Rows of the embeddings.
        pre_tokenizer: llama.cpp's name of the pre-tokenizer; found from the declaration when None.

    Raises:
        MinitronError: The tokenizer is no byte-level BPE, or splits text as no pre-tokenizer of llama.cpp is known to.
    """
    declared, loaded = _load(folder / TOKENIZER_FILE)
    settings: Mapping[str, object] = read_json(folder / SETTINGS_FILE) if (folder / SETTINGS_FILE).is_file() else {}
    merges = _read_merges(declared, folder)
    pre = _name_pre_tokenizer(declared, folder, pre_tokenizer)
    ids = loaded.get_vocab()
    if max(ids.values()) >= vocab_size:
        raise MinitronError(
            f"ids of tokens must be below the {vocab_size} rows of the embeddings, {folder} has {max(ids.values())}"
        )
    texts = {number: text for text, number in ids.items()}
    if len(texts) != len(ids):
        raise MinitronError(f"an id in {folder / TOKENIZER_FILE} must stand for one token, one stands for two")
    types = dict.fromkeys(texts, NORMAL)
    for number, token in loaded.get_added_tokens_decoder().items():
        types[number] = CONTROL if token.special else USER_DEFINED
    _warn_of_normalizer(declared.get("normalizer"), folder)
    special = special_ids(settings, config, ids, folder)
    return GgufTokenizer(
        pre=pre,
        tokens=[texts[number] if number in texts else _pad(number, ids) for number in range(vocab_size)],
        types=[types.get(number, UNUSED) for number in range(vocab_size)],
        merges=merges,
        special=special,
        adds=text_ends(declared.get("post_processor"), special, folder),
        template=chat_template(folder, settings),
    )


def _load(path: Path) -> tuple[Mapping[str, Any], Tokenizer]:
    if not path.is_file():
        raise MinitronError(f"a checkpoint must hold {path.name} to be exported, {path.parent} has none")
    declared = read_tokenizer_json(path)
    try:
        return declared, Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare exceptions for a malformed file
        if type(error) is not Exception:
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise MinitronError(f"{path} must be a tokenizer that the package tokenizers loads: {reason}") from error


def _read_merges(declared: Mapping[str, Any], folder: Path) -> list[str]:
    model = declared["model"]
    kind = model.get("type")
    if kind != "BPE" or not is_byte_level(declared.get("pre_tokenizer")):
        found = "a BPE of characters" if kind == "BPE" else f"of the kind {kind}"
        raise MinitronError(f"a tokenizer must be a byte-level BPE to be exported, that of {folder} is {found}")
    if not model["merges"]:
        raise MinitronError(f"a tokenizer must have merges for llama.cpp, that of {folder} has none")
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]


def _name_pre_tokenizer(declared: Mapping[str, Any], folder: Path, asked: str | None) -> str:
    declaration = declared.get("pre_tokenizer")
    found = find_pre_tokenizer(declaration)
    if asked is None and found is None:
        raise refuse_unknown(declaration, folder)
    if asked is not None and found is not None and asked != found.name:
        logger.warning("%s: splits text as llama.cpp's %s does, %s is written as asked", folder, found.name, asked)
    written = found if asked is None else known_pre_tokenizer(asked)
    ignores_merges = bool(declared["model"].get("ignore_merges"))
    if written is not None and written.ignores_merges != ignores_merges:
        logger.warning(
            "%s: ignore_merges is %s, llama.cpp's %s takes %s, so that a few words may be split otherwise",
            folder,
            ignores_merges,
            written.name,
            written.ignores_merges,
        )
    return asked or (found.name if found is not None else "")


def _pad(number: int, ids: Mapping[str, int]) -> str:
    text = f"[PAD{number}]"
    while text in ids:
        text += "_"
    return text


def _warn_of_normalizer(normalizer: object, folder: Path) -> None:
    kind = normalizer.get("type") if isinstance(normalizer, dict) else None
    if kind is not None:
        logger.warning("%s: text is normalized (%s), which llama.cpp leaves out", folder, kind)
