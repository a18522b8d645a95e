import os
from pathlib import Path

import pytest

from minitron.artifacts.artifact import working_folder, write_artifact
from minitron.artifacts.header import hash_inputs, read_header


def write(folder: Path, text: str = "x", **inputs: object) -> None:
    with write_artifact(folder, stage="score", inputs=inputs, seed=3) as output:
        (output / "file.txt").write_text(text)


def test_a_finished_artifact_says_what_it_was_made_from(tmp_path: Path) -> None:
    write(tmp_path / "a", setting=1)
    header = read_header(tmp_path / "a")
    assert header is not None
    assert header.inputs_hash == hash_inputs({"setting": 1})
    assert header.files == {"file.txt": 1}
    assert not working_folder(tmp_path / "a").exists()


def test_a_failed_artifact_does_not_appear_and_its_work_is_given_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), write_artifact(tmp_path / "a", stage="s", inputs={"k": 1}, seed=0) as output:
        (output / "state").write_text("half")
        raise RuntimeError
    assert read_header(tmp_path / "a") is None
    assert not (tmp_path / "a").exists()
    with write_artifact(tmp_path / "a", stage="s", inputs={"k": 1}, seed=0) as output:
        assert (output / "state").read_text() == "half"


def test_work_left_by_other_inputs_is_cleared(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), write_artifact(tmp_path / "a", stage="s", inputs={"k": 1}, seed=0) as output:
        (output / "state").write_text("half")
        raise RuntimeError
    with write_artifact(tmp_path / "a", stage="s", inputs={"k": 2}, seed=0) as output:
        assert not (output / "state").exists()


def test_a_failure_keeps_the_artifact_of_before(tmp_path: Path) -> None:
    write(tmp_path / "a", text="old", setting=1)
    with pytest.raises(RuntimeError), write_artifact(tmp_path / "a", stage="s", inputs={"k": 1}, seed=0):
        raise RuntimeError
    assert (tmp_path / "a" / "file.txt").read_text() == "old"
    assert read_header(tmp_path / "a") is not None


@pytest.mark.parametrize("damage", ["shorten", "remove"])
def test_a_damaged_artifact_is_not_finished(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "a", text="content", setting=1)
    if damage == "shorten":
        (tmp_path / "a" / "file.txt").write_text("c")
    else:
        (tmp_path / "a" / "file.txt").unlink()
    assert read_header(tmp_path / "a") is None


def test_a_note_left_in_an_artifact_does_not_undo_it(tmp_path: Path) -> None:
    write(tmp_path / "a", text="content", setting=1)
    (tmp_path / "a" / "note.txt").write_text("mine")
    assert read_header(tmp_path / "a") is not None


@pytest.mark.parametrize("name", ["a", "a.partial"])
def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is in the way and was not written by minitron"):
        write(tmp_path / "a", setting=1)
    assert (tmp_path / name / "thesis.txt").read_text() == "mine"


def test_a_folder_that_another_process_writes_is_refused(tmp_path: Path) -> None:
    inputs = {"a": 1}
    with (
        write_artifact(tmp_path / "x", stage="score", inputs=inputs, seed=0) as first,
        pytest.raises(ValueError, match="another process is writing"),
    ):
        (first / "kept").write_text("by the first")
        with write_artifact(tmp_path / "x", stage="score", inputs={"a": 2}, seed=0):
            pass
    assert (tmp_path / "x" / "kept").read_text() == "by the first"


def test_every_file_and_folder_is_synced_before_the_artifact_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    sync = os.fsync

    def record(descriptor: int) -> None:
        if not (tmp_path / "a").exists():
            synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with write_artifact(tmp_path / "a", stage="s", inputs={}, seed=0) as output:
        (output / "below").mkdir()
        (output / "below" / "file.txt").write_text("x")
        (output / "state").mkdir()
        (output / "state" / "kept.json").write_text("{}")
    written = [tmp_path / "a", *(tmp_path / "a").rglob("*")]
    assert sorted(path.name for path in written) == ["a", "artifact.json", "below", "file.txt"]
    assert {path.stat().st_ino for path in written} <= synced
