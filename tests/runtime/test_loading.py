"""What cannot be loaded is refused in one line: tokenizers that are malformed, devices that are not there."""

from pathlib import Path

import pytest
import torch

from minitron.errors import MinitronError
from minitron.runtime.loading import check_device, load_tokenizer
from tests.support.models import make_tokenizer


@pytest.mark.parametrize("content", ["{", "{}", '{"model": 3}'])
def test_a_malformed_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(MinitronError, match="must bring its tokenizer"):
        load_tokenizer(tmp_path)


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MinitronError, match="must bring its tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("device", "fault"),
    [
        ("gpu", "one that torch knows"),
        ("cpu:x", "one that torch knows"),
        pytest.param(
            "mps", "can use here", marks=pytest.mark.skipif(torch.backends.mps.is_available(), reason="has it")
        ),
        pytest.param("cuda", "can use here", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has it")),
        ("cuda:99", "can use here"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device: str, fault: str) -> None:
    check_device("cpu")
    with pytest.raises(MinitronError, match=fault):
        check_device(device)
