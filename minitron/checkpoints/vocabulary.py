"""The vocabulary of a checkpoint, read from its tokenizer's files without torch: which token an id stands for.

Two models meet (in a loss, a merge, an evaluation) only where every id stands for one token in both. Vocabularies that
are equal in other bytes (layout, order, normalization, settings of calls) are equal.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from minitron.artifacts.hashes import file_hash
from minitron.artifacts.json_files import JsonObject, first_fault, read_json
from minitron.errors import ArtifactError, CheckpointError

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
# Of older tokenizers: token -> id as JSON, and a token a line.
VOCABULARY_FILES = ("vocab.json", "vocab.txt")
ADDED_FILE = "added_tokens.json"
# Of which nothing but equality is known here.
SENTENCEPIECE_FILE = "tokenizer.model"

Vocabulary = Mapping[int, str]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
_Merge = Annotated[str, Field(pattern="^[^ ]+ [^ ]+$")]


class _Template(BaseModel):
    ids: list[TokenId]


class _Processor(BaseModel):
    type: str
    processors: "list[_Processor] | None" = None
    special_tokens: dict[str, _Template] | None = None
    sep: tuple[str, TokenId] | None = None
    cls: tuple[str, TokenId] | None = None


class _Added(BaseModel):
    id: TokenId
    content: str


class _Model(BaseModel):
    type: str | None = None
    vocab: dict[str, TokenId] | list[tuple[str, float]]
    merges: list[_Merge | tuple[str, str]] | None = None
    unk_token: str | None = None
    unk_id: TokenId | None = None
    continuing_subword_prefix: str | None = None


class _TokenizerJson(BaseModel):
    """What is read of a `tokenizer.json`; other fields are the package's own."""

    model: _Model
    added_tokens: list[_Added] | None = None
    normalizer: dict[str, object] | None = None
    pre_tokenizer: dict[str, object] | None = None
    post_processor: _Processor | None = None
    decoder: dict[str, object] | None = None


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """Id -> token of a checkpoint's tokenizer; None where it has no file that says so.

    Raises:
        CheckpointError: A file is malformed.
    """
    try:
        found = dict(_entries(folder))
    except (ArtifactError, AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(f"a tokenizer's files must list its tokens, those of {folder} do not: {error}") from error
    return found or None


def read_tokenizer_json(path: Path) -> JsonObject:
    """A `tokenizer.json`, whose parts are of the types that the package tokenizers writes.

    Raises:
        ArtifactError: It is missing, no JSON, or a part is of another type.
    """
    found = read_json(path)
    try:
        _TokenizerJson.model_validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        raise ArtifactError(
            f"{path} must be a tokenizer that the package tokenizers loads, {first_fault(error)}"
        ) from error
    return found


def tokens_beyond(folder: Path, vocab_size: int) -> dict[int, str]:
    """Tokens of a checkpoint's tokenizer whose ids its model has no embedding of: id -> token, ascending."""
    vocabulary = read_vocabulary(folder) or {}
    return {number: vocabulary[number] for number in sorted(vocabulary) if number >= vocab_size}


def require_one_vocabulary(first: Path, other: Path) -> None:
    """Refuses two checkpoints in which an id stands for two tokens.

    Raises:
        CheckpointError: One does, or it cannot be known; the message names the id and both tokens.
    """
    if _same_bytes(first, other):
        return
    one, two = read_vocabulary(first), read_vocabulary(other)
    for vocabulary, folder, beside in ((one, first, other), (two, other, first)):
        if vocabulary is None:
            raise CheckpointError(
                f"two models meet only where an id is one token in both, {folder} has no {TOKENIZER_FILE} to compare "
                f"with that of {beside}; save its tokenizer by transformers"
            )
    assert one is not None
    assert two is not None
    differing = [number for number in sorted(one.keys() | two.keys()) if one.get(number) != two.get(number)]
    if differing:
        more = f" ({len(differing)} ids differ)" if len(differing) > 1 else ""
        raise CheckpointError(
            f"two models meet only where an id is one token in both, {differing[0]} is {_said(one, differing[0])} in "
            f"{first} and {_said(two, differing[0])} in {other}{more}; take checkpoints of one tokenizer"
        )


def _said(vocabulary: Vocabulary, number: int) -> str:
    return repr(vocabulary[number]) if number in vocabulary else "no token"


def _same_bytes(first: Path, other: Path) -> bool:
    names = (TOKENIZER_FILE, SENTENCEPIECE_FILE, *VOCABULARY_FILES, ADDED_FILE, SETTINGS_FILE)
    return all(_hash(first / name) == _hash(other / name) for name in names)


def _hash(path: Path) -> str | None:
    return file_hash(path) if path.is_file() else None


def _entries(folder: Path) -> Iterator[tuple[int, str]]:
    """(id, token), those that go before others last."""
    yield from _added_by_settings(folder)
    if (folder / TOKENIZER_FILE).is_file():
        whole: Any = read_tokenizer_json(folder / TOKENIZER_FILE)
        listed = (whole.get("model") or {}).get("vocab") or {}
        # Unigram lists its pieces with their scores, by their ids.
        pairs = listed.items() if isinstance(listed, dict) else ((piece[0], at) for at, piece in enumerate(listed))
        yield from ((int(number), token) for token, number in pairs)
        yield from ((int(token["id"]), token["content"]) for token in whole.get("added_tokens") or ())
        return
    words, lines = (folder / name for name in VOCABULARY_FILES)
    if words.is_file():
        yield from _by_token(read_json(words))
    elif lines.is_file():
        yield from enumerate(lines.read_text(encoding="utf-8").rstrip("\n").split("\n"))
    else:
        return
    if (folder / ADDED_FILE).is_file():
        yield from _by_token(read_json(folder / ADDED_FILE))


def _by_token(found: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    yield from ((int(number), token) for token, number in found.items())


def _added_by_settings(folder: Path) -> Iterator[tuple[int, str]]:
    if not any((folder / name).is_file() for name in (TOKENIZER_FILE, *VOCABULARY_FILES)):
        return
    if (folder / SETTINGS_FILE).is_file():
        settings: Any = read_json(folder / SETTINGS_FILE)
        for number, token in (settings.get("added_tokens_decoder") or {}).items():
            yield int(number), token["content"] if isinstance(token, dict) else str(token)
