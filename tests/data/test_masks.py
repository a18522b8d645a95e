"""Loss masks through packing: in memory and on disk the same, beside the ids that they belong to."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minitron.data.conversations import Conversation
from minitron.data.encoding import encode_documents
from minitron.data.masks import MaskedSequences, loss_mask
from minitron.data.packing import write_sequence_file
from minitron.data.sequence_file import SequenceFile, open_sequence_file
from minitron.data.sequences import blend_order, blend_sources, blend_text
from minitron.data.sources import Blend, TextSource, shuffled_shares, source_seed
from minitron.distill.dataset import NOT_COUNTED, SequenceDataset
from minitron.errors import DataError
from tests.support.chat_templates import CHATML, make_chat_tokenizer

SEQ_LEN, SHARE, SEED = 13, 20, 5


@pytest.fixture
def chat(tmp_path: Path) -> TextSource:
    prompts = [f"question {number} " * (1 + number % 3) for number in range(40)]
    answers = [f"answer {number}, at length" * (number % 4 + 1) for number in range(40)]
    rows = [{"prompt": prompt, "completion": answer} for prompt, answer in zip(prompts, answers, strict=True)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "chat.jinja").write_text(CHATML)
    return TextSource(path=str(tmp_path / "chat.jsonl"), chat_template=str(tmp_path / "chat.jinja"))


@pytest.fixture
def text(tmp_path: Path) -> TextSource:
    (tmp_path / "text.txt").write_text("\n---\n".join(f"line {number} of text " * 3 for number in range(50)))
    return TextSource(path=str(tmp_path / "text.txt"))


def blend(*sources: TextSource) -> Blend:
    return Blend(sources=sources, seq_len=SEQ_LEN, num_sequences=SHARE * len(sources), seed=SEED)


def write(path: Path, *sources: TextSource) -> SequenceFile:
    return write_sequence_file(path, blend(*sources), make_chat_tokenizer(), made_from={})


def plain(sources: list[TextSource]) -> tuple[list[list[int]], list[list[bool]]]:
    """The blend's definition a document at a time, with nothing streamed: equal shares, whole permutations."""
    ids, counted = [], []
    for source in sources:
        documents, rng = list(source.read()), np.random.default_rng(source_seed(source, SEED))
        mine = 0
        while mine < SHARE:
            encoded = [
                encode_documents([documents[at]], make_chat_tokenizer(), source.chat)[0]
                for at in rng.permutation(len(documents))
            ]
            stream = [
                (token, bool(mark))
                for one in encoded
                for token, mark in zip(
                    one.ids_n, [True] * len(one.ids_n) if one.counted_n is None else one.counted_n, strict=True
                )
            ]
            for at in range(0, len(stream) - SEQ_LEN + 1, SEQ_LEN):
                if mine < SHARE:
                    ids.append([token for token, _ in stream[at : at + SEQ_LEN]])
                    counted.append([mark for _, mark in stream[at : at + SEQ_LEN]])
                    mine += 1
    order = blend_order(len(ids), seed=SEED)
    return [ids[at] for at in order], [counted[at] for at in order]


def test_a_blend_with_masks_is_what_single_documents_give(chat: TextSource, text: TextSource) -> None:
    found = blend_text([chat, text], make_chat_tokenizer(), seq_len=SEQ_LEN, num_sequences=2 * SHARE, seed=SEED)
    ids, counted = plain([chat, text])
    assert found.ids_NT.tolist() == ids
    assert found.counted_NT is not None
    assert found.counted_NT.tolist() == counted
    shares = found.counted_NT.mean(axis=1)
    assert sorted(shares)[SHARE] == 1.0  # of the text, all count
    assert 0.1 < sorted(shares)[SHARE // 2] < 0.9


def test_a_file_holds_the_masks_of_the_blend_in_memory(tmp_path: Path, chat: TextSource, text: TextSource) -> None:
    file = write(tmp_path / "file", chat, text)
    array = blend_text([chat, text], make_chat_tokenizer(), seq_len=SEQ_LEN, num_sequences=2 * SHARE, seed=SEED)
    for index in (0, -1, slice(3, 11), slice(None)):
        np.testing.assert_array_equal(file[index], array[index])
        np.testing.assert_array_equal(np.asarray(file.counted(index)), np.asarray(array.counted(index)))
    part = file.part(7)
    np.testing.assert_array_equal(np.asarray(part.counted(slice(2, 5))), np.asarray(array.counted(slice(9, 12))))
    assert file.header.version == 2
    assert file.path.stat().st_size == len(file.header.to_bytes()) + 2 * SHARE * (2 * SEQ_LEN + 2)


def test_text_alone_and_a_loss_on_all_keep_the_form_without_masks(
    tmp_path: Path, chat: TextSource, text: TextSource
) -> None:
    file = write(tmp_path / "file", text, chat.counting_all())
    assert file.header.version == 1
    assert file.counted(0) is None
    assert loss_mask(file, slice(0, 3)) is None
    assert file.path.stat().st_size == len(file.header.to_bytes()) + 2 * SHARE * 2 * SEQ_LEN
    ids = blend_sources([text, chat], make_chat_tokenizer(), seq_len=SEQ_LEN, num_sequences=2 * SHARE, seed=SEED)
    np.testing.assert_array_equal(file[:], ids)


def test_a_file_of_the_form_before_masks_still_opens(tmp_path: Path) -> None:
    ids = np.arange(2 * 3, dtype="<u2").reshape(2, 3)
    header = json.dumps(
        {"version": 1, "seq_len": 3, "num_sequences": 2, "dtype": "uint16", "seed": 0, "made_from": {}}
    ).encode()
    header += b" " * (-(16 + 8 + len(header)) % 64)
    (tmp_path / "old").write_bytes(b"minitron blocks\n" + len(header).to_bytes(8, "little") + header + ids.tobytes())
    found = open_sequence_file(tmp_path / "old")
    np.testing.assert_array_equal(found[:], ids[blend_order(2, seed=0)])
    assert found.counted(0) is None


def test_a_file_of_a_later_form_is_refused(tmp_path: Path, text: TextSource) -> None:
    path = write(tmp_path / "file", text).path
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":3'))
    with pytest.raises(DataError, match="must begin with its header"):
        open_sequence_file(path)


def test_an_interrupted_packing_goes_on_to_the_same_masks(
    tmp_path: Path, chat: TextSource, text: TextSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(tmp_path / "whole", chat, text).path.read_bytes()

    def killed(*_args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("minitron.data.encoding.encode_texts", killed)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "again", chat, text)
    with monkeypatch.context() as patch:
        patch.setattr("minitron.data.encoding._encode_conversations", killed)  # those were packed before
        assert write(tmp_path / "again", chat, text).path.read_bytes() == whole


def test_labels_are_next_tokens_that_count(chat: TextSource, text: TextSource) -> None:
    array = blend_text([chat, text], make_chat_tokenizer(), seq_len=SEQ_LEN, num_sequences=2 * SHARE, seed=SEED)
    assert isinstance(array, MaskedSequences)
    assert array.counted_NT is not None
    for next_tokens in (False, True):
        for index in range(len(array)):
            ids, counted = array.ids_NT[index].tolist(), array.counted_NT[index].tolist()
            labels = SequenceDataset(array, next_tokens=next_tokens)[index]["labels"].tolist()
            expected = [ids[at + 1] if counted[at + 1] else NOT_COUNTED for at in range(SEQ_LEN - 1)]
            assert labels[:-1] == expected
            # The token behind the last one is unknown: its position has a distribution, but no label.
            assert labels[-1] == (ids[0] if all(counted) and not next_tokens else NOT_COUNTED)


def test_answers_without_an_answer_are_refused(tmp_path: Path, chat: TextSource) -> None:
    rows = [{"messages": [{"role": "user", "content": "only a question"}]}] * 9
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = TextSource(path=str(tmp_path / "questions.jsonl"), chat_template=chat.chat_template)
    with pytest.raises(DataError, match=r"questions\.jsonl has none; set loss: all"):
        blend_text([source], make_chat_tokenizer(), seq_len=9, num_sequences=3, seed=0)


def test_a_loss_on_answers_of_text_is_refused(text: TextSource) -> None:
    source = TextSource(path=text.path, loss="answers")
    with pytest.raises(DataError, match="text has no answers to count"):
        blend_text([source], make_chat_tokenizer(), seq_len=9, num_sequences=3, seed=0)


def test_conversations_are_not_cut_into_excerpts(chat: TextSource) -> None:
    source = TextSource(path=chat.path, chat_template=chat.chat_template, excerpt_chars=9)
    with pytest.raises(DataError, match="not cut into excerpts"):
        blend_text([source], make_chat_tokenizer(), seq_len=9, num_sequences=3, seed=0)


def test_a_split_puts_each_conversation_on_one_side(chat: TextSource) -> None:
    sides: list[list[Conversation]] = []
    for part in ("train", "held_out", "all"):
        source = replace(chat, held_out=0.0 if part == "all" else 0.4, part=part)
        (share,) = shuffled_shares([source], 5, seed=2)
        sides.append([document for document in next(share.rounds) if isinstance(document, Conversation)])
    train, held_out, whole = ({conversation.text for conversation in side} for side in sides)
    assert train | held_out == whole
    assert not train & held_out
    assert len(whole) == 40
    assert 4 < len(held_out) < 28
