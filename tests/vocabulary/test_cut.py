"""A checkpoint whose vocabulary was cut: its files, its command, what loads, measures and exports it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import minitron
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.lineage import read_lineage
from minitron.checkpoints.vocabulary import read_vocabulary
from minitron.cli.main import main
from minitron.errors import MinitronError
from minitron.vocabulary.kept_tokens import comparable_ids, read_kept_tokens
from tests.support.models import make_dense_shape, make_tiny_shape, write_tiny_checkpoint
from tests.support.trained_tokenizers import MAKERS, fast_tokenizer, training_text, vocab_size

TEXT = "All human beings are born free and equal. A checkpoint is pruned by its scores, and a student is distilled."
BEYOND = 37  # rows of the embeddings that no token has


def write_teacher(folder: Path, kind: str = "byte-level", *, family: str = "llama") -> Path:
    """A tiny checkpoint with a trained tokenizer, more rows than tokens, and ids named in its configurations."""
    size = vocab_size(kind) + BEYOND
    if family == "llama":
        shape = make_dense_shape("llama", vocab_size=size, tie_word_embeddings=1)
    else:
        shape = make_tiny_shape(vocab_size=size)
    write_tiny_checkpoint(folder, shape=shape)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    tokenizer = fast_tokenizer(kind)
    tokenizer.save_pretrained(folder)
    end = tokenizer.get_vocab().get("<|im_end|>", 2)
    named = {"bos_token_id": 1, "eos_token_id": [2, end], "pad_token_id": 3}
    config = json.loads((folder / "config.json").read_text()) | named
    (folder / "config.json").write_text(json.dumps(config))
    suppressed = {"suppress_tokens": [end, 5], "max_new_tokens": 7}
    (folder / "generation_config.json").write_text(json.dumps({**named, **suppressed}))
    (folder / "vocab.json").write_text("{}")  # another spelling, which would be wrong afterwards
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    rows = [page[start : start + 500] for page in training_text()[:4] for start in range(0, 4000, 500)]
    path.write_text("\n".join(json.dumps({"text": row}) for row in [*rows, TEXT]))
    return path


@pytest.fixture(scope="module", params=[*MAKERS])
def cut(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, text: Path) -> tuple[Path, Path]:
    """Teacher and cut folder, of every kind of tokenizer."""
    root = tmp_path_factory.mktemp(request.param)
    teacher = write_teacher(root / "teacher", request.param)
    settings = {"coverage": 0.97, "multiple_of": 8}
    found = minitron.cut_vocabulary(teacher, text, output=root / "cut", settings=settings)
    assert found.record.before > found.record.after
    assert found.record.after % 8 == 0
    assert found.record.coverage >= 0.97
    return teacher, root / "cut"


def test_transformers_loads_it_and_its_logits_are_the_teachers(cut: tuple[Path, Path]) -> None:
    teacher, folder = cut
    kept = read_kept_tokens(folder)
    assert kept is not None
    ids = torch.from_numpy(kept.indices)
    tokenizer, before = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(teacher)
    whole, smaller = (AutoModelForCausalLM.from_pretrained(one).eval() for one in (teacher, folder))
    inputs = tokenizer(TEXT, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        expected = whole(ids[inputs["input_ids"]]).logits[..., ids]
        assert torch.equal(smaller(**inputs).logits, expected)
    pieces = set(before(TEXT)["input_ids"])
    if pieces <= set(kept.original_ids):
        assert tokenizer.tokenize(TEXT) == before.tokenize(TEXT)
    generated = smaller.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert generated.shape[1] == inputs["input_ids"].shape[1] + 3
    assert int(generated.max()) < open_checkpoint(folder).shape.vocab_size


def test_every_file_names_tokens_by_their_new_ids(cut: tuple[Path, Path]) -> None:
    teacher, folder = cut
    before, after = read_vocabulary(teacher), read_vocabulary(folder)
    kept = read_kept_tokens(folder)
    assert before is not None
    assert after is not None
    assert kept is not None
    assert {new: before[old] for new, old in enumerate(kept.original_ids) if old in before} == after
    assert not (folder / "vocab.json").exists()
    for name in ("config.json", "generation_config.json"):
        old, new = (json.loads((one / name).read_text()) for one in cut)
        for key in ("bos_token_id", "pad_token_id"):
            assert after[new[key]] == before[old[key]]
        assert [after[number] for number in new["eos_token_id"]] == [before[number] for number in old["eos_token_id"]]
        assert new.get("max_new_tokens") == old.get("max_new_tokens")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")
    assert [after[number] for number in tokenizer("a")["input_ids"] if after[number].startswith("<s")] == [
        before[number]
        for number in AutoTokenizer.from_pretrained(teacher)("a")["input_ids"]
        if before[number][:2] == "<s"
    ]


def test_its_lineage_and_record_say_what_was_kept(cut: tuple[Path, Path]) -> None:
    _, folder = cut
    lineage = read_lineage(folder)
    assert lineage is not None
    assert [step["step"] for step in lineage["steps"]] == ["vocabulary"]
    card = (folder / "README.md").read_text()
    assert "left with the tokens that a text uses" in card
    record = json.loads((folder / "vocabulary.json").read_text())
    assert f"| kept tokens of the vocabulary | {record['after']:,} |" in card
    lengths = {length["text"]: length for length in record["lengths"]}
    assert lengths["Russian"]["after"] >= lengths["Russian"]["before"] > 0
    assert next(iter(record["lengths"]))["text"].endswith("text.jsonl")


def test_a_cut_of_a_cut_maps_to_the_first_vocabulary(tmp_path: Path, text: Path) -> None:
    teacher = write_teacher(tmp_path / "teacher")
    once, twice = tmp_path / "once", tmp_path / "twice"
    minitron.cut_vocabulary(teacher, text, output=once, settings={"size": 1024})
    minitron.cut_vocabulary(once, text, output=twice, settings={"size": 512})
    before, after = read_vocabulary(teacher), read_vocabulary(twice)
    ids = comparable_ids(teacher, twice)
    assert before is not None
    assert after is not None
    assert ids is not None
    assert [before[int(old)] for old in ids] == [after[new] for new in range(512)]
    assert comparable_ids(twice, twice) is None
    with pytest.raises(MinitronError, match="teacher of the"):
        comparable_ids(once, twice)


def test_with_all_tokens_kept_rows_without_one_stay_last(tmp_path: Path, text: Path) -> None:
    teacher = write_teacher(tmp_path / "teacher")
    found = minitron.cut_vocabulary(
        teacher, text, output=tmp_path / "cut", settings={"size": vocab_size("byte-level") + 5, "multiple_of": 1}
    )
    kept = read_kept_tokens(found.output)
    assert kept is not None
    assert list(kept.original_ids) == list(range(vocab_size("byte-level") + 5))


def test_the_command_cuts_and_reports(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = write_teacher(tmp_path / "teacher")
    words = ["vocabulary", str(teacher), "--data", str(text), "--size", "768", "--output", str(tmp_path / "cut")]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["after"], found["output"]) == (768, str(tmp_path / "cut"))
    assert main(words) == 0  # finished before, and shown again
    shown = capsys.readouterr().out
    assert "768 of" in shown
    assert "Hindi" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "100"], "nearest: 64 or 128"),
        (["--size", "128"], "must be at least the"),
        (["--size", "6400"], "at most the model's"),
        (["--size", "640", "--coverage", "0.9"], "one of size, coverage and min_count"),
        ([], "one of size, coverage and min_count"),
        (["--coverage", "1.5"], "coverage"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    teacher = write_teacher(tmp_path / "teacher")
    assert main(["vocabulary", str(teacher), "--data", str(text), *words, "--output", str(tmp_path / "cut")]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert len(shown.splitlines()) == 1


def test_prune_cuts_vocabulary_and_widths_and_eval_restricts_the_teacher(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, data = write_teacher(tmp_path / "teacher", family="nemotron_h"), str(text)
    minitron.calibrate(teacher, data, output=tmp_path / "scores", settings={"samples": 4, "seq_len": 32})
    words = ["prune", str(teacher), "--scores", str(tmp_path / "scores"), "--shape", '{"hidden_size": 18}']
    words += ["--vocabulary", data, "--vocabulary-size", "768", "--repair", data, "--samples", "4", "--seq-len", "32"]
    student = tmp_path / "student"
    assert main([*words, "--output", str(student), "--json"]) == 0
    capsys.readouterr()
    written = open_checkpoint(student)
    assert (written.shape.vocab_size, written.shape.hidden_size) == (768, 18)
    lineage = read_lineage(student)
    assert lineage is not None
    assert [step["step"] for step in lineage["steps"]] == ["vocabulary", "prune"]
    assert json.loads((student / "vocabulary.json").read_text())["after"] == 768
    assert not (student / "vocabulary").exists()
    measured = ["--data", data, "--sequences", "2", "--seq-len", "32", "--json"]
    assert main(["eval", str(student), "--teacher", str(teacher), *measured]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert 0 < metrics["kl_to_teacher"] < 10
    assert metrics["bits_per_byte"] > 0
    # One whose vocabulary alone was cut says what its teacher says.
    minitron.cut_vocabulary(teacher, data, output=tmp_path / "cut", settings={"size": 768})
    assert main(["eval", str(tmp_path / "cut"), "--teacher", str(teacher), *measured]) == 0
    assert json.loads(capsys.readouterr().out)["kl_to_teacher"] == 0
    assert main(["eval", str(student), "--teacher", str(tmp_path / "cut"), *measured]) == 0
    assert json.loads(capsys.readouterr().out)["kl_to_teacher"] == pytest.approx(metrics["kl_to_teacher"], rel=1e-6)


def test_measures_without_text_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prune", str(tmp_path), "--scores", str(tmp_path), "--shape", "{}", "--output", str(tmp_path / "out")]
    assert main([*words, "--vocabulary-size", "768"]) == 2
    assert "are for --vocabulary" in capsys.readouterr().err


def test_llama_cpps_file_holds_the_kept_tokens(tmp_path: Path, text: Path) -> None:
    gguf = pytest.importorskip("gguf")
    teacher = write_teacher(tmp_path / "teacher")
    minitron.cut_vocabulary(teacher, text, output=tmp_path / "cut", settings={"size": 768})
    exported = minitron.export(tmp_path / "cut", output=tmp_path / "cut.gguf")
    reader = gguf.GGUFReader(tmp_path / "cut.gguf")
    field: Any = reader.fields["tokenizer.ggml.tokens"]
    tokens = [bytes(field.parts[at]).decode() for at in field.data]
    vocabulary = read_vocabulary(tmp_path / "cut")
    assert vocabulary is not None
    assert tokens == [vocabulary[number] for number in range(768)]
    assert exported is not None
    embeddings = next(tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
    assert sorted(np.asarray(embeddings.shape).tolist()) == [24, 768]
