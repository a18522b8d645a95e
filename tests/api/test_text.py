"""The command line and the Python API take the sources that a recipe takes: settings, patterns, several of them."""

import json
from pathlib import Path
from typing import Any

import pytest

import minitron
from minitron.cli.main import main
from minitron.recipe.source import Source
from tests.support.chat_templates import CHATML

SETTINGS = {"sequences": 6, "seq_len": 32, "speed": {"input_tokens": 2, "output_tokens": 2, "repetitions": 1}}


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"ask {n}", "completion": f"answer {n} " * 3} for n in range(40)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "chat.jinja").write_text(CHATML)
    (tmp_path / "shards").mkdir()
    for part in range(2):
        (tmp_path / "shards" / f"{part}.txt").write_text("\n---\n".join(f"line {part} {n}" for n in range(30)))
    return tmp_path


def evaluate(data: Any) -> float:
    return minitron.evaluate("teacher", data, settings=SETTINGS, context=64).loss


def test_a_source_is_a_path_its_settings_or_a_recipes(folder: Path) -> None:
    answers = evaluate({"path": "chat.jsonl", "chat_template": "chat.jinja"})
    assert answers == evaluate(Source(path="chat.jsonl", chat_template="chat.jinja", loss="answers"))
    assert answers != evaluate({"path": "chat.jsonl", "chat_template": "chat.jinja", "loss": "all"})
    assert evaluate("shards") == evaluate(Path("shards")) == evaluate("shards/*.txt")


def test_the_command_line_takes_a_blend(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat: dict[str, object] = {"path": "chat.jsonl", "weight": 0.7, "chat_template": "chat.jinja"}
    text: dict[str, object] = {"path": "shards", "weight": 0.3}
    blend = ("--data", "{path: chat.jsonl, weight: 0.7, chat_template: chat.jinja}", "--data", json.dumps(text))
    assert main(["eval", "teacher", *blend, "--sequences", "6", "--seq-len", "32", "--context", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == evaluate([chat, text])


def test_a_template_saved_beside_the_tokenizer_is_used(folder: Path) -> None:
    expected = evaluate({"path": "chat.jsonl", "chat_template": "chat.jinja"})
    (folder / "teacher" / "chat_template.jinja").write_text(CHATML)
    assert evaluate("chat.jsonl") == expected


def test_scores_of_conversations_are_taken_over_all_that_is_read(folder: Path) -> None:
    scores = [
        minitron.calibrate(
            "teacher",
            {"path": "chat.jsonl", "chat_template": "chat.jinja", **loss},
            output=folder / name,
            settings={"samples": 4, "seq_len": 32},
        )
        for name, loss in (("answers", {"loss": "answers"}), ("all", {"loss": "all"}))
    ]
    assert scores[0].depth.tolist() == scores[1].depth.tolist()
