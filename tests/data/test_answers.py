"""Answer masks of differently made chat templates, against pieces that were rendered by hand and tokens' own bytes."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitron.data.conversations import Conversation
from minitron.data.encoding import ChatSettings, Encoded, encode_documents
from minitron.errors import DataError
from tests.support.chat_templates import (
    BOS,
    CHATML,
    EOS,
    TEMPLATES,
    Messages,
    first_characters,
    make_chat_tokenizer,
)

ANSWERS, ALL = "answers", "all"


def encode(messages: Messages, jinja: str | None, *, loss: Any = ANSWERS, adds: str = "", **more: Any) -> Encoded:
    conversation = Conversation(messages=[dict(message) for message in messages], where="chat.jsonl:1", **more)
    (found,) = encode_documents([conversation], make_chat_tokenizer(adds=adds), ChatSettings(loss=loss, template=jinja))
    return found


contents = st.text(st.sampled_from("ab \n[/|<>äö日"), min_size=1, max_size=9)
thoughts = st.builds(lambda thought, content: f"<think>{thought}</think>{content}", contents, contents)


@st.composite
def conversations(draw: Any) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": draw(contents)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(contents)})
        messages.append({"role": "assistant", "content": draw(contents | thoughts)})
    if draw(st.booleans()):
        messages.append({"role": "user", "content": draw(contents)})
    return messages


def expected(name: str, messages: Messages, ids: list[int], *, adds: str) -> tuple[str, list[bool]]:
    """Text and mask by brute force: each token has the label of the piece that its first character lies in."""
    pieces = TEMPLATES[name].pieces(messages)
    labels = [answer for text, answer in pieces for _ in text]
    text, starts = first_characters(make_chat_tokenizer(adds=adds), ids)
    whole = "".join(text for text, _ in pieces)
    closed = [labels[start] for start in starts if start < len(whole)]
    # The end-of-text token that is put behind belongs to an answer that reaches the end.
    return text, closed + [labels[-1]] * (len(ids) - len(closed))


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("adds", ["", "bos eos"])
@settings(max_examples=40)
@given(messages=conversations())
def test_masks_are_those_of_pieces_rendered_by_hand(name: str, adds: str, messages: Messages) -> None:
    found = encode(messages, TEMPLATES[name].jinja, adds=adds)
    text, mask = expected(name, messages, found.ids_n, adds=adds)
    whole = "".join(piece for piece, _ in TEMPLATES[name].pieces(messages))
    assert text == (whole if whole.rstrip().endswith(EOS) else whole + EOS)
    assert found.counted_n is not None
    assert found.counted_n.tolist() == mask


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=10)
@given(messages=conversations())
def test_tokens_are_those_of_the_whole_rendering_with_or_without_masks(name: str, messages: Messages) -> None:
    tokenizer = make_chat_tokenizer(adds="bos eos")
    masked = encode(messages, TEMPLATES[name].jinja, adds="bos eos")
    assert encode(messages, TEMPLATES[name].jinja, loss=ALL, adds="bos eos") == Encoded(masked.ids_n)
    theirs: Any = tokenizer.apply_chat_template(
        [dict(message) for message in messages], chat_template=TEMPLATES[name].jinja, return_dict=False
    )
    assert masked.ids_n in (theirs, [*theirs, tokenizer.eos_token_id])


def test_tokens_do_straddle_the_borders_of_answers() -> None:
    tokenizer = make_chat_tokenizer()
    straddling = 0
    for name, made in TEMPLATES.items():
        messages = [{"role": "user", "content": "a1 b"}, {"role": "assistant", "content": " b2 a"}] * 2
        ids = encode(messages, made.jinja).ids_n
        _, starts = first_characters(tokenizer, ids)
        labels = [answer for text, answer in made.pieces(messages) for _ in text]
        ends = [*starts[1:], len(labels)]
        straddling += sum(
            len(set(labels[start:end])) > 1 for start, end in zip(starts, ends, strict=True) if start < len(labels)
        )
        assert starts, name
    assert straddling > 3


def test_a_prompts_assistant_turns_are_no_answers() -> None:
    turns = [("user", "a"), ("assistant", "XX"), ("user", "b"), ("assistant", "YY")]
    messages = [{"role": role, "content": content} for role, content in turns]
    tokenizer = make_chat_tokenizer()
    for name in ("chatml", "marked"):
        found = encode(messages, TEMPLATES[name].jinja, first_answer=3)
        assert found.counted_n is not None
        counted = [token for token, mine in zip(found.ids_n, found.counted_n, strict=True) if mine]
        text = tokenizer.decode(counted)
        assert text.startswith("YY"), name
        assert "XX" not in text


def test_a_tools_turn_is_no_answer_and_a_call_is_one() -> None:
    jinja = CHATML.replace(
        "{{ m['content'] }}", "{{ m['content'] }}{% if m.tool_calls %}CALL {{ m.tool_calls[0].name }}{% endif %}"
    )
    messages: list[Any] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "add"}]},
        {"role": "tool", "content": "result"},
        {"role": "assistant", "content": "YY"},
    ]
    found = encode(messages, jinja)
    assert found.counted_n is not None
    counted = [token for token, mine in zip(found.ids_n, found.counted_n, strict=True) if mine]
    text = make_chat_tokenizer().decode(counted)
    assert text.startswith("CALL add<|im_end|>")
    assert text.endswith(f"YY<|im_end|>\n{EOS}")
    assert "result" not in text


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_a_trace_beside_the_content_is_kept_where_the_template_takes_it(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    takes = CHATML.replace(
        "{{ m['content'] }}",
        "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m['content'] }}",
    )
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", name: "trace"}]
    found = encode(messages, takes)
    assert found.counted_n is not None
    counted = [token for token, mine in zip(found.ids_n, found.counted_n, strict=True) if mine]
    assert make_chat_tokenizer().decode(counted).startswith("<think>trace</think>b")
    assert not caplog.records
    leaves_out = f"{{# {len(name)} #}}{CHATML}"  # a template of its own, which is warned of once
    for _ in range(2):
        assert "trace" not in make_chat_tokenizer().decode(encode(messages, leaves_out).ids_n)
    assert sum("left out" in record.message for record in caplog.records) == 1


def test_a_template_that_rewrites_history_is_refused_with_where_it_differs() -> None:
    counts = "{{ messages | length }} messages: " + CHATML
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(DataError, match=r"chat\.jsonl:1 differs before message 1 at character 0.*loss: all") as caught:
        encode(messages, counts)
    assert "\n" not in str(caught.value)
    assert encode(messages, counts, loss=ALL).counted_n is None


def test_a_record_that_the_template_refuses_is_named() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(DataError, match=r"refuses chat\.jsonl:1: roles must alternate"):
        encode(messages, TEMPLATES["mistral"].jinja, loss=ALL)


def test_without_a_template_the_line_says_what_to_do() -> None:
    with pytest.raises(DataError, match="need a chat template.*set chat_template on the source.*chat_template.jinja"):
        encode([{"role": "user", "content": "a"}], None)


@pytest.mark.parametrize(("jinja", "copies"), [(CHATML, 0), ("{{ bos_token }}" + CHATML, 1)])
def test_a_beginning_that_the_template_writes_is_not_written_again(jinja: str, copies: int) -> None:
    found = encode([{"role": "user", "content": "a"}], jinja, loss=ALL, adds="bos eos")
    assert make_chat_tokenizer(adds="bos eos").decode(found.ids_n).count(BOS) == copies
    assert found.ids_n.count(2) == 1
