"""Special tokens are added once, whatever a tokenizer's post-processor adds."""

import copy
from typing import Any

import pytest
from tokenizers import processors

from minitron.data.conversations import Conversation
from minitron.data.encoding import ChatSettings, encode_documents
from minitron.errors import DataError
from tests.support.chat_templates import make_chat_tokenizer
from tests.support.models import make_tokenizer

BOS, EOS = 1, 2


def template(single: str) -> Any:
    return processors.TemplateProcessing(single=single, special_tokens=[("<s>", BOS), ("</s>", EOS)])


@pytest.mark.parametrize(
    ("processor", "opening"),
    [
        (None, []),
        (template("$A"), []),
        (template("<s> $A"), [BOS]),
        (template("$A </s>"), []),
        (template("<s> $A </s>"), [BOS]),
        (template("<s> <s> $A </s> </s>"), [BOS, BOS]),
        (processors.RobertaProcessing(("</s>", EOS), ("<s>", BOS)), [BOS]),
    ],
    ids=["none", "empty", "bos", "eos", "both", "twice", "roberta"],
)
@pytest.mark.parametrize("text", ["some text", "</s>", "text that ends with </s>"])
def test_a_document_ends_with_one_end_of_text_token_by_every_post_processor(
    processor: Any, opening: list[int], text: str
) -> None:
    tokenizer = make_tokenizer()
    if processor is not None:
        tokenizer.backend_tokenizer.post_processor = processor
    plain: Any = tokenizer(text, add_special_tokens=False)["input_ids"]
    (found,) = encode_documents([text], tokenizer)
    # One that the text has written out closes it.
    assert found.ids_n == [*opening, *plain, *([] if plain[-1:] == [EOS] else [EOS])]
    assert found.counted_n is None


@pytest.mark.parametrize("adds", ["", "bos", "eos", "bos eos"])
def test_what_is_packed_is_the_same_text_by_every_tokenizer_of_a_vocabulary(adds: str) -> None:
    texts = ["one", "two words", "three\nlines\n"]
    expected = [found.ids_n for found in encode_documents(texts, make_chat_tokenizer())]
    found = [one.ids_n for one in encode_documents(texts, make_chat_tokenizer(adds=adds))]
    assert found == [[BOS] * ("bos" in adds) + ids for ids in expected]


def test_without_an_end_of_text_conversations_are_refused_too() -> None:
    tokenizer = copy.deepcopy(make_chat_tokenizer())
    tokenizer.eos_token = None
    conversation = Conversation(messages=[{"role": "assistant", "content": "a"}], where="chat.jsonl:1")
    chat = ChatSettings(loss="all", template="{% for message in messages %}{{ message.content }}{% endfor %}")
    with pytest.raises(DataError, match=r"names one; set eos_token in tokenizer_config.json"):
        encode_documents([conversation], tokenizer, chat)
