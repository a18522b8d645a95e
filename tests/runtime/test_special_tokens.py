"""What a tokenizer does not name is filled in from the model's configuration, and said."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from minitron.runtime.loading import load_tokenizer
from tests.support.models import make_tokenizer


def write(folder: Path, *, without: tuple[str, ...], **configured: Any) -> Path:
    tokenizer = make_tokenizer()
    for name in without:
        setattr(tokenizer, name, None)
    tokenizer.save_pretrained(folder)
    for name, eos in configured.items():
        (folder / f"{name}.json").write_text(json.dumps({"eos_token_id": eos}))
    return folder


@pytest.mark.parametrize(
    ("configured", "taken"),
    [
        ({"generation_config": [2, 1], "config": 1}, ("</s>", "generation_config.json has 2")),
        ({"generation_config": None, "config": 1}, ("<s>", "config.json has 1")),
        ({"config": [1, 2]}, ("<s>", "config.json has 1")),
        ({"generation_config": [9999], "config": 2}, ("</s>", "config.json has 2")),
    ],
)
def test_an_end_of_text_that_is_not_named_is_the_model_s(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, configured: dict[str, Any], taken: tuple[str, str]
) -> None:
    tokenizer = load_tokenizer(write(tmp_path, without=("eos_token",), **configured))
    assert tokenizer.eos_token == taken[0]
    (message,) = caplog.messages
    assert taken[1] in message


def test_without_any_the_tokenizer_loads_all_the_same(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path, without=("eos_token", "pad_token")))
    assert tokenizer.eos_token_id is None
    assert tokenizer.pad_token_id is not None


def test_padding_that_is_not_named_is_the_end_of_text_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path, without=("pad_token",))
    with caplog.at_level(logging.INFO):
        assert load_tokenizer(folder).pad_token == "</s>"
    assert [message for message in caplog.messages if "pad_token; '</s>' is taken" in message]


def test_what_is_named_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        tokenizer = load_tokenizer(write(tmp_path, without=(), generation_config=[1]))
    assert (tokenizer.eos_token, tokenizer.pad_token, caplog.messages) == ("</s>", "<pad>", [])
