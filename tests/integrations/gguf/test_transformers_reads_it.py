"""transformers' own reader of GGUF files, which knows llama and qwen3, gives the model and the tokenizer back."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import minitron
from tests.support.gguf_files import write_exportable
from tests.support.models import make_dense_shape

TEXTS = ("the then", " thethe\n  the 12", "naïve ☃", "")


@pytest.mark.parametrize("tied", [0, 1])
@pytest.mark.parametrize(("model_type", "head_dim"), [("llama", 10), ("qwen3", 128)])  # it takes no other of a qwen3
def test_the_model_and_the_tokenizer_come_back(tmp_path: Path, model_type: str, head_dim: int, tied: int) -> None:
    shape = make_dense_shape(model_type, head_dim=head_dim, tie_word_embeddings=tied)
    folder = write_exportable(tmp_path / "teacher", shape)
    minitron.export(folder, output=tmp_path / "files" / "model.gguf")
    before = AutoModelForCausalLM.from_pretrained(folder)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "files", gguf_file="model.gguf", dtype=torch.float32)
    assert type(after) is type(before)
    expected = before.state_dict()
    assert after.state_dict().keys() == expected.keys()
    for name, tensor in after.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(after(ids).logits, before(ids).logits, rtol=0, atol=0)
    ours = AutoTokenizer.from_pretrained(folder)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "files", gguf_file="model.gguf")
    assert [theirs(text)["input_ids"] for text in TEXTS] == [ours(text)["input_ids"] for text in TEXTS]
