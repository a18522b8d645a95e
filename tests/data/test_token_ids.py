import numpy as np
import pytest

from minitron.data import token_ids
from minitron.data.token_ids import require_model_ids
from minitron.errors import DataError
from tests.support.models import make_tokenizer


def test_an_id_beyond_the_embeddings_is_refused_by_its_token_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_ids, "SEQUENCES_AT_ONCE", 2)
    tokenizer = make_tokenizer()
    size = len(tokenizer)
    tokenizer.add_tokens(["<|im_start|>"])
    sequences_NT = np.full((5, 3), size - 1, dtype=np.int32)
    require_model_ids(sequences_NT, tokenizer, size)
    require_model_ids(sequences_NT[:0], tokenizer, size)
    sequences_NT[4, 1] = size
    with pytest.raises(DataError, match=rf"vocab_size {size}, the text holds '<\|im_start\|>', whose id is {size};"):
        require_model_ids(sequences_NT, tokenizer, size)
    require_model_ids(sequences_NT, tokenizer, size + 1)
