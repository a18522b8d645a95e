"""A `tokenizer.json` as far as cutting its vocabulary needs it: its kind, its tokens, and those it must have."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from minitron.checkpoints.vocabulary import TOKENIZER_FILE, read_tokenizer_json
from minitron.errors import ArtifactError, CheckpointError

# JSON of a tokenizer, or a part of it, whose fields the package tokenizers defines.
Declaration: TypeAlias = Mapping[str, Any]

KINDS = ("BPE", "Unigram", "WordPiece")
# Spelling of a space where pieces come from SentencePiece.
SPACE = "\u2581"
PRINTABLE = [chr(number) for number in range(0x20, 0x7F)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFile:
    """A tokenizer's file.

    Attributes:
        content: The file's JSON, as it stands; not to be changed.
        ids: Token of the model -> its id.
        added: Token that was added (special ones, marks of a chat) -> its id.
    """

    content: Declaration
    ids: Mapping[str, int]
    added: Mapping[str, int]

    @property
    def model(self) -> Declaration:
        """What the file says of the model."""
        found: Declaration = self.content["model"]
        return found

    @property
    def kind(self) -> str:
        """BPE, Unigram or WordPiece."""
        return str(self.model["type"])

    @property
    def all_ids(self) -> dict[str, int]:
        """Every token and its id."""
        return {**self.ids, **self.added}

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The pairs that BPE merges, first ones first; none of another kind."""
        listed = self.model.get("merges") or []
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in listed)
        return [(left, right) for left, right in pairs]

    @property
    def is_byte_level(self) -> bool:
        """Whether its characters stand for bytes."""
        parts = (self.content.get(part) or {} for part in ("pre_tokenizer", "decoder"))
        return any(_mentions(part, "ByteLevel") for part in parts)

    @property
    def base_ids(self) -> set[int]:
        """What any text can be written in, and what the model itself names.

        Bytes, where its characters stand for bytes or it falls back to them; else every single character, as text with
        another one would be lost. Of Unigram also the least likely piece, by which an unknown character is weighed.
        """
        if self.is_byte_level:
            from tokenizers.pre_tokenizers import ByteLevel

            base = set(ByteLevel.alphabet())
        elif self.model.get("byte_fallback"):
            base = {f"<0x{number:02X}>" for number in range(256)} | {SPACE, *PRINTABLE}
        else:
            inside = self.model.get("continuing_subword_prefix") or ""
            base = {token for token in self.ids if len(token.removeprefix(inside)) == 1}
        if self.model.get("unk_token") is not None:
            base.add(self.model["unk_token"])
        found = {self.ids[token] for token in base if token in self.ids}
        if self.kind == "Unigram":
            scores = [score for _, score in self.model["vocab"]]
            found.add(scores.index(min(scores)))
            if self.model.get("unk_id") is not None:
                found.add(self.model["unk_id"])
        return found


def read_tokenizer_file(folder: Path) -> TokenizerFile:
    """The `tokenizer.json` of a checkpoint folder.

    Raises:
        CheckpointError: There is none, it is malformed, or is of a kind whose vocabulary cannot be cut exactly.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise CheckpointError(
            f"a vocabulary is cut by {TOKENIZER_FILE}, {folder} has none; save its tokenizer by transformers"
        )
    try:
        content = read_tokenizer_json(path)
    except ArtifactError as error:
        raise CheckpointError(f"a tokenizer's file must list its tokens: {error}") from error
    return parse_tokenizer_file(content, path)


def parse_tokenizer_file(content: Declaration, where: object) -> TokenizerFile:
    """The content of a `tokenizer.json`.

    Raises:
        CheckpointError: It is malformed, or of a kind whose vocabulary cannot be cut exactly; the message says where.
    """
    try:
        _require_kind(content["model"], where)
        vocabulary = content["model"]["vocab"]
        ids = (
            {token: int(number) for token, number in vocabulary.items()}
            if isinstance(vocabulary, dict)
            else {piece[0]: number for number, piece in enumerate(vocabulary)}
        )
        added = {token["content"]: int(token["id"]) for token in content.get("added_tokens") or ()}
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(f"a tokenizer's file must list its tokens, {where} does not: {error}") from error
    return TokenizerFile(content=content, ids=ids, added=added)


def _require_kind(model: Declaration, where: object) -> None:
    kind = model["type"]
    if kind not in KINDS:
        raise CheckpointError(f"a vocabulary is cut of a tokenizer of {', '.join(KINDS)}, {where} is one of {kind}")
    if kind == "BPE":
        for setting in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(setting):
                raise CheckpointError(
                    f"a vocabulary is cut of BPE without {setting}, {where} has {model[setting]!r}; pieces do not "
                    "follow from the merges alone there"
                )


def _mentions(part: object, kind: str) -> bool:
    if isinstance(part, dict):
        return part.get("type") == kind or any(_mentions(inner, kind) for inner in part.values())
    return isinstance(part, list) and any(_mentions(inner, kind) for inner in part)
