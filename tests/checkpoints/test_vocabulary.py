"""Two models meet only where every id stands for one token in both."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minitron.checkpoints.vocabulary import read_vocabulary, require_one_vocabulary, tokens_beyond
from minitron.errors import CheckpointError
from tests.support.models import make_tokenizer

Json = dict[str, Any]


def write(folder: Path, change: Callable[[Json], object] = lambda whole: None, *, indent: int | None = 2) -> Path:
    make_tokenizer().save_pretrained(folder)
    whole = json.loads((folder / "tokenizer.json").read_text())
    change(whole)
    (folder / "tokenizer.json").write_text(json.dumps(whole, indent=indent))
    return folder


def shuffle_order(whole: Json) -> None:
    entries = list(whole["model"]["vocab"].items())
    random.Random(0).shuffle(entries)
    whole["model"]["vocab"] = dict(entries)


def swap(whole: Json) -> None:
    vocab = whole["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


def add(whole: Json) -> None:
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    whole["added_tokens"].append({"id": 300, "content": "<|new|>", **token})


def truncate(whole: Json) -> None:
    whole["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}


SAME: dict[str, Callable[[Json], object]] = {
    "layout": lambda whole: None,
    "order": shuffle_order,
    "settings of calls": truncate,
    "post-processor": lambda whole: whole.update(post_processor=None),
    "merges": lambda whole: whole["model"].update(merges=[]),
}


@pytest.mark.parametrize("name", SAME)
def test_vocabularies_that_are_equal_in_other_bytes_are_equal(tmp_path: Path, name: str) -> None:
    first, other = write(tmp_path / "first"), write(tmp_path / "other", SAME[name], indent=None)
    assert (first / "tokenizer.json").read_bytes() != (other / "tokenizer.json").read_bytes()
    require_one_vocabulary(first, other)
    require_one_vocabulary(other, first)


DIFFERENT: dict[str, tuple[Callable[[Json], object], str]] = {
    "swapped": (swap, r"\d+ is 'a' in .*first and 'b' in .*other \(2 ids differ\)"),
    "added": (add, r"300 is no token in .*first and '<\|new\|>' in .*other; take"),
    "renamed": (lambda whole: whole["added_tokens"][1].update(content="[B]"), r"1 is '<s>' in .* and '\[B\]' in"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_differing_token_is_named(tmp_path: Path, name: str) -> None:
    change, line = DIFFERENT[name]
    first, other = write(tmp_path / "first"), write(tmp_path / "other", change)
    with pytest.raises(CheckpointError, match=line):
        require_one_vocabulary(first, other)


def test_a_vocabulary_is_that_of_the_loaded_tokenizer(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<|plain|>"])
    tokenizer.add_special_tokens({"unk_token": "<|odd|>"})
    tokenizer.save_pretrained(tmp_path)
    expected = {number: token for token, number in tokenizer.get_vocab().items()}
    assert read_vocabulary(tmp_path) == expected
    highest = max(expected)
    assert tokens_beyond(tmp_path, highest - 1) == {highest - 1: "<|plain|>", highest: "<|odd|>"}
    assert tokens_beyond(tmp_path, highest + 1) == {}


def test_older_files_and_lists_of_pieces_say_the_same(tmp_path: Path) -> None:
    for name in ("words", "lines", "pieces", "settings"):
        (tmp_path / name).mkdir()
    (tmp_path / "words" / "vocab.json").write_text('{"a": 0, "é": 1}')
    (tmp_path / "words" / "added_tokens.json").write_text('{"<x>": 2}')
    (tmp_path / "lines" / "vocab.txt").write_text("a\né\n<x>\n", encoding="utf-8")
    pieces = {"model": {"type": "Unigram", "vocab": [["a", -1.0], ["é", -2.0]]}}
    added = {"added_tokens": [{"id": 2, "content": "<x>"}]}
    (tmp_path / "pieces" / "tokenizer.json").write_text(json.dumps(pieces | added))
    (tmp_path / "settings" / "tokenizer.json").write_text(json.dumps(pieces))
    decoder = {"added_tokens_decoder": {"2": {"content": "<x>"}}}
    (tmp_path / "settings" / "tokenizer_config.json").write_text(json.dumps(decoder))
    for name in ("words", "lines", "pieces", "settings"):
        assert read_vocabulary(tmp_path / name) == {0: "a", 1: "é", 2: "<x>"}
        require_one_vocabulary(tmp_path / "pieces", tmp_path / name)


def test_a_tokenizer_that_cannot_be_compared_is_refused_unless_its_files_are_the_same(tmp_path: Path) -> None:
    first = write(tmp_path / "first")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.model").write_bytes(b"pieces")
    require_one_vocabulary(tmp_path / "one", tmp_path / "two")
    for pair in ((first, tmp_path / "one"), (tmp_path / "one", first)):
        with pytest.raises(CheckpointError, match="one has no tokenizer.json to compare"):
            require_one_vocabulary(*pair)


@pytest.mark.parametrize("content", ["{", "[]", '{"model": 3}', '{"added_tokens": [{"id": "x"}]}', "\xff"])
def test_a_malformed_file_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content.encode("latin1"))
    with pytest.raises(CheckpointError, match="a tokenizer's files must list its tokens") as caught:
        read_vocabulary(tmp_path)
    assert "\n" not in str(caught.value)
