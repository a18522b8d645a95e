"""Writes a tokenizer that has the kept tokens alone, and every place that names one by its id."""

import copy
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minitron.artifacts.atomic import write_text
from minitron.artifacts.json_files import read_json
from minitron.checkpoints.vocabulary import ADDED_FILE, SENTENCEPIECE_FILE, SETTINGS_FILE, TOKENIZER_FILE
from minitron.errors import CheckpointError
from minitron.models.axes import Indices
from minitron.vocabulary.tokenizer_file import Declaration, TokenizerFile

CONFIG_FILES = ("config.json", "generation_config.json")
# Other spellings of the whole vocabulary, which transformers reads in place of nothing once there is a tokenizer.json.
OTHER_SPELLINGS = (
    ADDED_FILE,
    SENTENCEPIECE_FILE,
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
NAMES_IDS = re.compile(r"(^|_)token_(id|ids|index)$|^(begin_)?suppress_tokens$|^bad_words_ids$")

NewIds = Mapping[int, int]


def new_ids(kept: Indices) -> dict[int, int]:
    """Old id -> new id."""
    return {old: new for new, old in enumerate(kept.tolist())}


def rewrite_tokenizer(folder: Path, file: TokenizerFile, ids: NewIds) -> None:
    """Rewrites the files of a checkpoint folder that say what an id stands for, in place.

    Those are `tokenizer.json`, the tokenizer's settings, and the ids that `config.json` and `generation_config.json`
    name. Other spellings of the vocabulary are removed.

    Raises:
        CheckpointError: The new tokenizer would give a token another id than its row has.
    """
    content = cut_tokenizer(file, ids)
    _require_ids(content, {token: ids[number] for token, number in file.all_ids.items() if number in ids}, folder)
    _write(folder / TOKENIZER_FILE, content)
    if (folder / SETTINGS_FILE).is_file():
        settings = {**read_json(folder / SETTINGS_FILE)}
        decoder = settings.get("added_tokens_decoder")
        if isinstance(decoder, dict):
            settings["added_tokens_decoder"] = {
                str(ids[int(number)]): token for number, token in decoder.items() if int(number) in ids
            }
        _write(folder / SETTINGS_FILE, settings, indent=2)
    for name in CONFIG_FILES:
        if (folder / name).is_file():
            _write(folder / name, with_new_ids(read_json(folder / name), ids), indent=2)
    for name in OTHER_SPELLINGS:
        (folder / name).unlink(missing_ok=True)


def cut_tokenizer(file: TokenizerFile, ids: NewIds) -> dict[str, object]:
    """The content of a `tokenizer.json` with the kept tokens alone, under their new ids."""
    content = copy.deepcopy(dict(file.content))
    model = content["model"]
    tokens = {token: ids[number] for token, number in file.ids.items() if number in ids}
    if isinstance(model["vocab"], list):
        model["vocab"] = [piece for number, piece in enumerate(model["vocab"]) if number in ids]
        if model.get("unk_id") is not None:
            model["unk_id"] = ids[model["unk_id"]]
    else:
        model["vocab"] = dict(sorted(tokens.items(), key=lambda entry: entry[1]))
    if file.kind == "BPE":
        model["merges"] = [
            pair
            for pair, (left, right) in zip(model["merges"], file.merges, strict=True)
            if left in tokens and right in tokens and left + right in tokens
        ]
    added = content.get("added_tokens") or []
    content["added_tokens"] = [{**token, "id": ids[token["id"]]} for token in added if token["id"] in ids]
    padding = content.get("padding")
    if padding:
        padding["pad_id"] = ids.get(padding["pad_id"], 0)
    _renumber_processor(content.get("post_processor"), ids)
    return content


def named_ids(folder: Path, file: TokenizerFile) -> set[int]:
    """Every id that a checkpoint's configurations, its tokenizer's settings or its post-processor name."""
    found: set[int] = set()
    for name in CONFIG_FILES:
        if (folder / name).is_file():
            _collect(read_json(folder / name), found)
    _collect_processor(file.content.get("post_processor"), found)
    all_ids = file.all_ids
    for name in (SETTINGS_FILE, SPECIAL_TOKENS_FILE):
        if (folder / name).is_file():
            found |= {all_ids[token] for token in _named_tokens(read_json(folder / name)) if token in all_ids}
    return found


def with_new_ids(config: Mapping[str, object], ids: NewIds) -> dict[str, object]:
    """A configuration that names tokens by their new ids; null where a token is gone.

    >>> with_new_ids({"eos_token_id": [7, 9], "pad_token_id": -1, "vocab_size": 7}, {7: 0, 9: 1})
    {'eos_token_id': [0, 1], 'pad_token_id': -1, 'vocab_size': 7}
    """
    return {key: _renumbered(key, value, ids) for key, value in config.items()}


def _renumbered(key: str, value: object, ids: NewIds) -> object:
    if isinstance(value, Mapping):
        return with_new_ids(value, ids)
    return _mapped(value, ids) if NAMES_IDS.search(key) else value


def _mapped(value: object, ids: NewIds) -> object:
    if isinstance(value, list):
        return [each for each in (_mapped(one, ids) for one in value) if each is not None]
    return ids.get(value) if type(value) is int and value >= 0 else value


def _collect(value: object, found: set[int], *, named: bool = False) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _collect(inner, found, named=NAMES_IDS.search(key) is not None)
    elif isinstance(value, list):
        for inner in value:
            _collect(inner, found, named=named)
    elif named and type(value) is int and value >= 0:
        found.add(value)


def _collect_processor(part: Declaration | None, found: set[int]) -> None:
    if part is None:
        return
    for inner in part.get("processors") or ():
        _collect_processor(inner, found)
    for token in (part.get("special_tokens") or {}).values() if part["type"] == "TemplateProcessing" else ():
        found |= set(token["ids"])
    found |= {part[key][1] for key in ("sep", "cls") if isinstance(part.get(key), list)}


def _named_tokens(settings: Mapping[str, object]) -> Iterator[str]:
    """Texts of the special tokens in a tokenizer's settings, whichever way they are written."""
    for key, value in settings.items():
        if key.endswith(("_token", "_tokens")):
            yield from _texts(value)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in [value["content"]] if "content" in value else value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _renumber_processor(part: dict[str, Any] | None, ids: NewIds) -> None:
    """Puts the new ids into a post-processor, in place: templates list them, older kinds have pairs of token and id."""
    if part is None:
        return
    for inner in part.get("processors") or ():
        _renumber_processor(inner, ids)
    for token in (part.get("special_tokens") or {}).values() if part["type"] == "TemplateProcessing" else ():
        token["ids"] = [ids[number] for number in token["ids"]]
    for key in ("sep", "cls"):
        if isinstance(part.get(key), list):
            part[key] = [part[key][0], ids[part[key][1]]]


def _require_ids(content: Mapping[str, object], expected: Mapping[str, int], folder: Path) -> None:
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_str(json.dumps(content)).get_vocab(with_added_tokens=True)
    except Exception as error:  # tokenizers raises plain ones
        raise CheckpointError(f"the cut tokenizer of {folder} must load, tokenizers says: {error}") from error
    if found != dict(expected):
        token = min(token for token in {*found, *expected} if found.get(token) != expected.get(token))
        raise CheckpointError(
            f"the cut tokenizer of {folder} must give each token the id of its row, {token!r} has "
            f"{found.get(token)} and must have {expected.get(token)}; its added tokens are in no order that can be kept"
        )


def _write(path: Path, content: Mapping[str, object], *, indent: int | None = None) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False, indent=indent) + "\n")
