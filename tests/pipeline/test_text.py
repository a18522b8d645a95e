from pathlib import Path
from typing import Any

import pytest

from minitron.artifacts.hashes import file_hash
from minitron.estimate.serving.workload import Workload
from minitron.pipeline import calibration, evaluation
from minitron.pipeline.calibration import read_samples
from minitron.pipeline.context import Execution
from minitron.pipeline.evaluating.plan import EvaluationPlan
from minitron.pipeline.fingerprints import data_hashes
from minitron.pipeline.text import text_sources
from minitron.recipe.evaluate import EvaluateSection
from minitron.recipe.prune import CalibrationSection
from minitron.recipe.source import Source


def test_a_source_without_a_split_is_read_whole_on_both_sides() -> None:
    sources = [Source(path="a.jsonl", weight=2.0, excerpt_chars=9)]
    assert text_sources(sources) == text_sources(sources, held_out=True)
    assert text_sources(sources)[0].part == "all"
    assert (text_sources(sources)[0].weight, text_sources(sources)[0].excerpt_chars) == (2.0, 9)


def test_a_split_source_gives_training_one_side_and_evaluation_the_other() -> None:
    sources = [Source(path="a.jsonl", held_out=0.25)]
    (train,), (held_out,) = text_sources(sources), text_sources(sources, held_out=True)
    assert (train.part, train.held_out) == ("train", 0.25)
    assert (held_out.part, held_out.held_out) == ("held_out", 0.25)


def test_only_a_split_changes_what_identifies_a_source(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("some text")
    plain = {"weight": 1.0, "field": "text", "split": "train", "excerpt_chars": None}
    (file,), (dataset,) = data_hashes([Source(path=str(path))]), data_hashes([Source(path="some/dataset")])
    assert file == {**plain, "content": file_hash(path)}
    assert dataset == {"path": "some/dataset", **plain}
    assert data_hashes([Source(path=str(path), held_out=0.1)]) == [{**file, "held_out": 0.1}]


def test_shards_and_a_template_count_by_their_contents(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"text of {name}")
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}")

    def hashes(path: str) -> object:
        return data_hashes([Source(path=str(tmp_path / path), loss="all", chat_template=str(template))])

    (found,) = data_hashes([Source(path=str(tmp_path), loss="all", chat_template=str(template))])
    assert found["content"] == [file_hash(tmp_path / "a.txt"), file_hash(tmp_path / "b.txt")]
    assert (found["loss"], found["chat_template"]) == ("all", file_hash(template))
    before = hashes("*.txt")
    assert before == [found]
    template.write_text("{{ messages[0] }}")
    assert hashes("*.txt") != before


def test_calibration_reads_the_side_that_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}

    def stop(sources: Any, *_args: Any, **_options: Any) -> None:
        found["part"] = sources[0].part
        raise KeyboardInterrupt

    monkeypatch.setattr(calibration, "blend_samples", stop)
    monkeypatch.setattr(calibration, "load_tokenizer", lambda _folder: None)
    section = CalibrationSection(data=(Source(path="a.jsonl", held_out=0.25),), seq_len=8)
    with pytest.raises(KeyboardInterrupt):
        read_samples(section, type("Opened", (), {"folder": tmp_path}), seed=0)  # type: ignore[arg-type]
    assert found == {"part": "train"}


def test_evaluation_reads_the_side_that_is_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}

    def stop(sources: Any, *_args: Any, **_options: Any) -> None:
        found["part"] = sources[0].part
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "blend_text", stop)
    for name in ("open_checkpoint", "load_tokenizer"):
        monkeypatch.setattr(evaluation, name, lambda _folder, **_options: None)
    section = EvaluateSection(data=(Source(path="a.jsonl", held_out=0.25),))
    plan = EvaluationPlan(section=section, workload=Workload(context_tokens=8), execution=Execution())
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate_model(object(), tmp_path, plan, teacher=None)  # type: ignore[arg-type]
    assert found == {"part": "held_out"}
