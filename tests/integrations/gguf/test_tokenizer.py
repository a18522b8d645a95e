"""Tokenizers in exported files: every token, who encloses a text, and which of llama.cpp's splits is named."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from transformers import AutoTokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

import minitron
from minitron.errors import MinitronError
from minitron.integrations.gguf.pre_tokenizers import KNOWN, find_pre_tokenizer
from tests.support.gguf_files import make_mergeable_tokenizer, read_gguf, write_exportable
from tests.support.models import make_dense_shape, make_tokenizer
from tests.support.paths import TEACHER

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_exportable(tmp_path / "teacher", make_dense_shape("qwen3"))


def change(folder: Path, file: str, **changes: Any) -> Path:
    path = folder / file
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return folder


def exported(folder: Path, **settings: Any) -> dict[str, Any]:
    output = folder.parent / "model.gguf"
    output.unlink(missing_ok=True)
    prefix = "tokenizer."
    fields, _ = read_gguf(minitron.export(folder, output=output, **settings).output)
    return {
        key.removeprefix(prefix).removeprefix("ggml."): value for key, value in fields.items() if key.startswith(prefix)
    }


def declaration(*steps: Any) -> Any:
    tokenizer = make_mergeable_tokenizer(pre_tokenizers.Sequence(list(steps)) if len(steps) > 1 else steps[0])
    return json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]


def split(regex: str, behavior: str = "isolated", *, invert: bool = False) -> Any:
    return pre_tokenizers.Split(Regex(regex), behavior=behavior, invert=invert)


def test_every_id_has_its_token_and_its_kind(tmp_path: Path) -> None:
    output = minitron.export(TEACHER, output=tmp_path / "model.gguf").output
    fields, _ = read_gguf(output)
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    assert fields["tokenizer.ggml.tokens"] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_ids)
    kinds = fields["tokenizer.ggml.token_type"]
    added = tokenizer.added_tokens_decoder
    assert special <= added.keys()
    assert kinds == [
        (gguf.TokenType.CONTROL if added[number].special else gguf.TokenType.USER_DEFINED)
        if number in added
        else gguf.TokenType.NORMAL
        for number in range(len(tokenizer))
    ]
    merges = json.loads((TEACHER / "tokenizer.json").read_text())["model"]["merges"]
    assert fields["tokenizer.ggml.merges"] == [f"{first} {second}" for first, second in merges]
    assert fields["tokenizer.ggml.model"] == "gpt2"
    assert fields["tokenizer.ggml.pre"] == "smollm"
    assert fields["tokenizer.ggml.bos_token_id"] == tokenizer.bos_token_id
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert fields["tokenizer.ggml.padding_token_id"] == tokenizer.pad_token_id
    assert "tokenizer.ggml.unknown_token_id" not in fields


def test_an_added_token_that_is_not_special_is_the_users(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(folder)
    found = exported(folder)
    number = tokenizer.convert_tokens_to_ids("<tool>")
    assert found["tokens"][number] == "<tool>"
    assert found["token_type"][number] == gguf.TokenType.USER_DEFINED


@pytest.mark.parametrize("settings", [{}, {"add_bos_token": True}, {"add_bos_token": False, "add_eos_token": True}])
@pytest.mark.parametrize("template", [None, "$A", "<s> $A", "$A </s>", "<s> $A </s>"])
@pytest.mark.parametrize("inside", [False, True])
def test_what_encloses_a_text_is_what_transformers_puts_around_it(
    folder: Path, settings: dict[str, bool], template: str | None, inside: bool
) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made = processors.ByteLevel(trim_offsets=False)
    if template is not None:
        special = [("<s>", 1), ("</s>", 2)]
        made = processors.TemplateProcessing(single=template, pair=template + " $B", special_tokens=special)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), made]) if inside else made
    tokenizer.save(str(folder / "tokenizer.json"))
    change(folder, "tokenizer_config.json", **settings)
    ids = AutoTokenizer.from_pretrained(folder)("the")["input_ids"]
    found = exported(folder)
    assert found["add_bos_token"] is (ids[0] == found["bos_token_id"])
    assert found["add_eos_token"] is (ids[-1] == found["eos_token_id"])


def test_special_tokens_are_the_tokenizers_else_the_configurations(folder: Path) -> None:
    change(folder, "config.json", bos_token_id=5, eos_token_id=[7, 8], pad_token_id=9)
    found = exported(folder)
    assert (found["bos_token_id"], found["eos_token_id"], found["padding_token_id"]) == (1, 2, 0)
    change(folder, "tokenizer_config.json", bos_token=..., eos_token=None, pad_token={"content": "a"})
    found = exported(folder)
    assert (found["bos_token_id"], found["eos_token_id"]) == (5, 7)
    assert found["tokens"][found["padding_token_id"]] == "a"


def test_a_chat_template_is_carried_along(folder: Path) -> None:
    assert "chat_template" not in exported(folder)
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ messages }}"}]
    change(folder, "tokenizer_config.json", chat_template=named)
    assert exported(folder)["chat_template"] == "{{ messages }}"
    (folder / "chat_template.jinja").write_text("{{ messages[0] }} \u00e9", encoding="utf-8")
    assert exported(folder)["chat_template"] == "{{ messages[0] }} \u00e9"


def test_the_expressions_of_a_name_are_those_that_transformers_gives_it() -> None:
    found = {known.name: dict(known.steps) for known in KNOWN if known.steps[0][0] == "split"}
    assert found.keys() == {"qwen2", "qwen35", "llama-bpe", "tekken", "gpt-4o"}
    assert {name: steps["split"] for name, steps in found.items()} == {
        name: GGUF_PRE_TOKENIZER_SPLITS[name] for name in found
    }


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ((WORDS,), "gpt-2"),
        ((pre_tokenizers.Digits(individual_digits=True), WORDS), "smollm"),
        ((split(PRETOKENIZE_REGEX), BYTES), "qwen2"),
        ((split(PRETOKENIZE_REGEX, "removed", invert=True), BYTES), "qwen2"),
        ((pre_tokenizers.Sequence([split(GGUF_PRE_TOKENIZER_SPLITS["tekken"])]), BYTES), "tekken"),
        ((pre_tokenizers.Digits(individual_digits=False), WORDS), None),
        ((split(PRETOKENIZE_REGEX), WORDS), None),
        ((split(PRETOKENIZE_REGEX, invert=True), BYTES), None),
        ((split(PRETOKENIZE_REGEX, "merged_with_next"), BYTES), None),
        ((split(PRETOKENIZE_REGEX + "|x"), BYTES), None),
        ((BYTES,), None),
        ((pre_tokenizers.ByteLevel(add_prefix_space=True),), None),
        ((pre_tokenizers.Punctuation(), WORDS), None),
    ],
)
def test_a_pre_tokenizer_is_named_only_where_it_is_the_same(steps: tuple[Any, ...], name: str | None) -> None:
    found = find_pre_tokenizer(declaration(*steps))
    assert (None if found is None else found.name) == name


def test_a_pre_tokenizer_that_is_not_known_is_named_by_the_user(folder: Path) -> None:
    make_mergeable_tokenizer(pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), WORDS])).save_pretrained(folder)
    with pytest.raises(MinitronError, match=r"as one of llama.cpp's does \(gpt-2, .* --pre-tokenizer NAME$") as raised:
        exported(folder)
    assert '"type": "Punctuation"' in str(raised.value)
    assert exported(folder, pre_tokenizer="dbrx")["pre"] == "dbrx"


def test_what_llama_cpp_does_otherwise_is_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    exported(folder)
    assert not caplog.records
    exported(folder, pre_tokenizer="tekken")
    assert "splits text as llama.cpp's gpt-2 does, tekken is written as asked" in caplog.text
    assert "ignore_merges is False, llama.cpp's tekken takes True" in caplog.text
    change(folder, "tokenizer.json", normalizer={"type": "NFC"})
    exported(folder)
    assert "text is normalized (NFC), which llama.cpp leaves out" in caplog.text
    declared = json.loads((folder / "tokenizer.json").read_text())["post_processor"]
    declared["single"].insert(0, {"SpecialToken": {"id": "<s>", "type_id": 0}})
    change(folder, "tokenizer.json", post_processor=declared)
    assert exported(folder)["add_bos_token"] is False
    assert "tokens [1, 1] are put before a text, which llama.cpp cannot" in caplog.text


def without_merges(folder: Path) -> None:
    make_tokenizer().save_pretrained(folder)


def add_tokens(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<{number}>" for number in range(10)])
    tokenizer.save_pretrained(folder)


def repeat_an_id(folder: Path) -> None:
    declared = json.loads((folder / "tokenizer.json").read_text())
    declared["model"]["vocab"]["zz"] = 3
    change(folder, "tokenizer.json", model=declared["model"])


FAULTS: dict[str, tuple[Any, str]] = {
    "none": (lambda folder: (folder / "tokenizer.json").unlink(), "must hold tokenizer.json to be exported"),
    "not JSON": (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json must be JSON"),
    "Unigram": (
        lambda folder: change(folder, "tokenizer.json", model={"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]}),
        "must be a byte-level BPE to be exported, that of",
    ),
    "sentencepiece": (
        lambda folder: change(folder, "tokenizer.json", pre_tokenizer={"type": "Whitespace"}),
        "is a BPE of characters",
    ),
    "no merges": (without_merges, "must have merges for llama.cpp"),
    "malformed": (
        lambda folder: change(folder, "tokenizer.json", model={"type": "BPE", "vocab": {"a": -1}, "merges": []}),
        "must be a tokenizer that the package tokenizers loads",
    ),
    "twice": (repeat_an_id, "must stand for one token, one stands for two"),
    "too many": (add_tokens, "ids of tokens must be below the 271 rows of the embeddings"),
    "template": (
        lambda folder: (folder / "chat_template.jinja").write_bytes(b"caf\xe9"),
        "a chat template must be UTF-8",
    ),
    "no eos": (
        lambda folder: (
            change(folder, "tokenizer_config.json", eos_token=...),
            change(folder, "config.json", eos_token_id=None),
        ),
        "must name an eos_token, it names none",
    ),
    "strange eos": (
        lambda folder: change(folder, "tokenizer_config.json", eos_token="<end>"),
        "eos_token of",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tokenizer_that_llama_cpp_cannot_have_is_one_line(folder: Path, fault: str) -> None:
    spoil, message = FAULTS[fault]
    spoil(folder)
    with pytest.raises(MinitronError, match=".") as raised:
        exported(folder)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
