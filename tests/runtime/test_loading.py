"""What cannot be loaded is refused in one line: tokenizers that are malformed or missing."""

from pathlib import Path

import pytest

from minitron.errors import MinitronError
from minitron.runtime.loading import load_tokenizer
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
