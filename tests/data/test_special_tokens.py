"""Special tokens around a text are put there once, whatever post-processor the tokenizer brings."""

from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from minitron.data.masks import PackedText
from minitron.data.sequences import pack_documents
from minitron.data.special_tokens import encode_prompts, encode_texts
from minitron.errors import DataError
from tests.support.models import make_tokenizer

BOS, EOS = ("<s>", 1), ("</s>", 2)


def template(single: str) -> Any:
    return processors.TemplateProcessing(single=single, pair=f"{single} $B:1", special_tokens=[BOS, EOS])


# Post-processor -> what a text begins with by it.
PROCESSORS: dict[str, tuple[Any, list[int]]] = {
    "none": (None, []),
    "byte level": (processors.ByteLevel(trim_offsets=False), []),
    "begins": (template("<s> $A"), [1]),
    "closes": (template("$A </s>"), []),
    "both": (template("<s> $A </s>"), [1]),
    "closes twice": (template("$A </s> </s>"), []),
    "begins twice": (template("<s> <s> $A"), [1, 1]),
    "begins with the end of text": (template("</s> $A"), [2]),
    "neither": (template("$A"), []),
    "bert": (processors.BertProcessing(EOS, BOS), [1]),
    "roberta": (processors.RobertaProcessing(EOS, BOS, trim_offsets=False), [1]),
    "a sequence": (processors.Sequence([processors.ByteLevel(trim_offsets=False), template("<s> $A </s>")]), [1]),
}


def with_processor(name: str) -> tuple[Any, list[int]]:
    processor, begins = PROCESSORS[name]
    tokenizer = make_tokenizer()
    if processor is not None:
        tokenizer.backend_tokenizer.post_processor = processor
    return tokenizer, begins


def plain_ids(text: str) -> list[int]:
    """One token a byte, by a tokenizer that adds nothing."""
    ids: list[int] = make_tokenizer()(text)["input_ids"]
    return ids


@pytest.mark.parametrize("name", PROCESSORS)
@given(texts=st.lists(st.text(alphabet="abc é\n", max_size=9), min_size=1, max_size=5))
def test_a_document_is_closed_once_and_a_prompt_ends_where_its_text_ends(name: str, texts: list[str]) -> None:
    tokenizer, begins = with_processor(name)
    assert encode_prompts(texts, tokenizer) == [[*begins, *plain_ids(text)] for text in texts]
    # What begins a text closes an empty one where it is the end of text.
    closed = [[*begins, *plain_ids(text)] for text in texts]
    assert encode_texts(texts, tokenizer) == [ids if ids and ids[-1] == 2 else [*ids, 2] for ids in closed]


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_token_that_the_text_holds_already_is_not_put_there_again(name: str) -> None:
    tokenizer, begins = with_processor(name)
    written = "".join(("", "<s>", "</s>")[token] for token in begins)
    assert encode_prompts([f"{written}ab"], tokenizer) == [[*begins, *plain_ids("ab")]]
    assert encode_texts([f"{written}ab</s>"], tokenizer) == [[*begins, *plain_ids("ab"), 2]]


@pytest.mark.parametrize("name", PROCESSORS)
def test_packed_text_holds_one_end_of_text_a_document(name: str) -> None:
    tokenizer, begins = with_processor(name)
    documents = ["ab", "c", "abcabc"] * 4
    expected = list(chain.from_iterable([*begins, *plain_ids(text), 2] for text in documents))
    packed = PackedText.joined(list(pack_documents(documents, tokenizer, seq_len=5, num_sequences=50)))
    assert packed.ids_NT.flatten().tolist() == expected[: len(expected) // 5 * 5]
    assert packed.counted_NT is None


def test_without_an_end_of_text_documents_are_refused_and_prompts_are_not() -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    assert encode_prompts(["ab"], tokenizer) == [plain_ids("ab")]
    with pytest.raises(DataError, match=r"names one; set eos_token in tokenizer_config.json"):
        encode_texts(["ab"], tokenizer)
