"""Alignment between two distillations: its records, what it measures, and all of its stages at a small size."""

import importlib
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.runtime.loading import load_model, load_tokenizer
from tests.support.paths import QUICKSTART, ROOT, TEACHER
from tests.support.quickstart import load_make_data, write_small_quickstart

SIZES = {
    "sft-steps": 25,
    "sft-rate": 5e-4,
    "refusals": 0.5,
    "dpo-steps": 8,
    "dpo-rate": 3e-4,
    "batch-size": 4,
    "repair-tokens": 2048,
    "measured": 56,
}
# Held-out text that is enough to tell one checkpoint from another; short sequences would part answers from prompts.
SETTINGS = ("evaluate.sequences=8", "evaluate.seq_len=256")
NAMES = ("student", "sft", "dpo", "repaired", "merged")


@pytest.fixture
def examples_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "align"))


@pytest.fixture
def problems() -> Any:
    make_data = load_make_data()
    return [make_data.make_chat(one)["messages"] for one in make_data.make_problems(seed=3, count=60, held_out=False)]


@pytest.mark.usefixtures("examples_on_path")
def test_an_unanswerable_question_asks_for_what_it_does_not_assign(problems: Any) -> None:
    preferences = importlib.import_module("preferences")
    for question, _ in problems:
        other, refusal = preferences.unanswerable(question, random.Random(0))
        statements, asked = other["content"].rsplit(";", 1)
        assert question["content"].startswith(f"{statements};")
        assert f"{asked[0]}=" not in statements
        assert refusal["reasoning_content"] == f"{asked[0]} is not given"


@pytest.mark.usefixtures("examples_on_path")
def test_half_of_the_pairs_prefer_the_answer_and_half_the_refusal(problems: Any) -> None:
    preferences = importlib.import_module("preferences")
    pairs = preferences.as_pairs(problems, random.Random(0))
    refused = [pair["chosen"][0]["content"] == preferences.UNANSWERED for pair in pairs]
    assert refused == [False, True] * 30
    for (question, answer), pair, refuses in zip(problems, pairs, refused, strict=True):
        assert (pair["prompt"] == [question]) != refuses
        assert pair["rejected" if refuses else "chosen"] == [answer]


@pytest.mark.usefixtures("examples_on_path")
def test_a_share_of_the_conversations_cannot_be_answered(problems: Any, tmp_path: Path) -> None:
    preferences = importlib.import_module("preferences")
    records = preferences.as_conversations(problems, 0.3, random.Random(0))
    preferences.write_conversations(tmp_path / "chat.jsonl", records)
    written = preferences.read_problems(tmp_path / "chat.jsonl", 60)
    changed = [found != problem for found, problem in zip(written, problems, strict=True)]
    assert 8 < sum(changed) < 28
    assert all(
        turns[1]["content"] == preferences.UNANSWERED for turns, new in zip(written, changed, strict=True) if new
    )
    with pytest.raises(ValueError, match="must hold 61 conversations, got 60"):
        preferences.read_problems(tmp_path / "chat.jsonl", 61)


@pytest.mark.usefixtures("examples_on_path")
def test_preference_accuracy_compares_likelihoods_of_whole_answers(problems: Any) -> None:
    pytest.importorskip("trl")
    align, preferences = importlib.import_module("align"), importlib.import_module("preferences")
    template = (QUICKSTART / "chat.jinja").read_text()
    pairs = preferences.as_pairs(problems[:6], random.Random(0))
    model, tokenizer = load_model(TEACHER), load_tokenizer(TEACHER)
    tokenizer.chat_template = template

    def by_hand(prompt: str, answer: str) -> float:
        """Cross-entropy of an answer by transformers, of text that is put together by hand."""
        asked, whole = (tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, prompt + answer))
        labels = torch.tensor([[-100] * len(asked) + whole[len(asked) :]])
        return -float(model(torch.tensor([whole]), labels=labels).loss.detach()) * (len(whole) - len(asked))

    better = 0
    for pair in pairs:
        prompt, likelihoods = f"<s>{pair['prompt'][0]['content']}\n", []
        for turn in (pair["chosen"][0], pair["rejected"][0]):
            likelihoods.append(by_hand(prompt, f"<think>{turn['reasoning_content']}</think>{turn['content']}</s>"))
            found = align.log_likelihood(model, tokenizer, pair["prompt"], [turn])
            assert found == pytest.approx(likelihoods[-1], rel=1e-4, abs=1e-4)
        better += likelihoods[0] > likelihoods[1]
    assert 0 < better < len(pairs)
    assert align.preference_accuracy(TEACHER, pairs, template) == better / len(pairs)
    turned = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs]
    assert align.preference_accuracy(TEACHER, turned, template) == 1 - better / len(pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """What the script left: its command, where, and what it measured."""

    command: list[str]
    root: Path
    output: Path
    measured: dict[str, dict[str, float]]

    @property
    def checkpoints(self) -> dict[str, Path]:
        places = ("sft", "dpo", "repair/distill/checkpoint", "merged")
        return dict(zip(NAMES, (TEACHER, *(self.output / place for place in places)), strict=True))


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Aligned:
    """The teacher itself, aligned: a student whose KL is 0 before anything is done to it."""
    pytest.importorskip("trl")
    root = tmp_path_factory.mktemp("checkout")
    write_small_quickstart(root)
    make_data = load_make_data()
    chat = map(make_data.make_chat, make_data.make_problems(seed=0, count=132, held_out=False))
    make_data.write_jsonl(root / "examples" / "quickstart" / "data" / "chat-train.jsonl", chat)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    sizes = [word for name, size in SIZES.items() for word in (f"--{name}", str(size))]
    script = str(ROOT / "examples" / "align" / "align.py")
    command = [sys.executable, script, "--student", str(TEACHER), "--output", "aligned", *settings, *sizes]
    run(command, root)
    measured = json.loads((root / "aligned" / "measured.json").read_text())
    return Aligned(command=command, root=root, output=root / "aligned", measured=measured)


def run(command: list[str], root: Path) -> str:
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


@pytest.mark.slow
def test_each_stage_does_to_held_out_text_what_it_is_for(aligned: Aligned) -> None:
    measured = aligned.measured
    assert list(measured) == list(NAMES)
    assert measured["student"]["kl_to_teacher"] == pytest.approx(0, abs=1e-6)
    assert measured["sft"]["sft_loss"] < 0.9 * measured["student"]["sft_loss"]
    assert measured["student"]["preference_accuracy"] == 0.5
    assert measured["dpo"]["preference_accuracy"] > max(0.6, measured["sft"]["preference_accuracy"] - 0.01)
    assert measured["sft"]["kl_to_teacher"] > 1e-3
    assert measured["repaired"]["kl_to_teacher"] < measured["dpo"]["kl_to_teacher"]
    assert measured["merged"]["kl_to_teacher"] < measured["dpo"]["kl_to_teacher"]


@pytest.mark.slow
def test_every_checkpoint_loads_with_the_students_tokenizer_and_configuration(aligned: Aligned) -> None:
    student = open_checkpoint(TEACHER)
    for folder in list(aligned.checkpoints.values())[1:]:
        found = open_checkpoint(folder)
        assert found.shape == student.shape
        assert {name: one.dtype for name, one in found.tensors.items()} == {
            name: one.dtype for name, one in student.tensors.items()
        }
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            assert json.loads((folder / name).read_text()) == json.loads((TEACHER / name).read_text())
        inputs = AutoTokenizer.from_pretrained(folder)("a=7;b=a+5;b?\n", return_tensors="pt")
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.generate(**inputs, max_new_tokens=2, min_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2


@pytest.mark.slow
def test_the_merge_is_halfway_between_preference_and_repair(aligned: Aligned) -> None:
    dpo, repaired, merged = (
        load_model(aligned.checkpoints[name]).state_dict() for name in ("dpo", "repaired", "merged")
    )
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, (dpo[name] + repaired[name]) / 2, rtol=2**-8, atol=1e-6)


@pytest.mark.slow
def test_a_second_call_takes_what_is_finished(aligned: Aligned) -> None:
    written = {name: (folder / "model.safetensors").stat().st_mtime_ns for name, folder in aligned.checkpoints.items()}
    printed = run(aligned.command, aligned.root)
    assert "preference accuracy" in printed
    assert json.loads((aligned.output / "measured.json").read_text()) == aligned.measured
    for name, folder in aligned.checkpoints.items():
        assert (folder / "model.safetensors").stat().st_mtime_ns == written[name]
