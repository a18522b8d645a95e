"""A finished result is taken as it is when made from the same inputs, and refused with what differs otherwise."""

from pathlib import Path

import pytest

from minitron.artifacts.artifact import write_artifact
from minitron.artifacts.finished import find_finished, finished_or_refused


def write(folder: Path, **inputs: object) -> None:
    with write_artifact(folder, stage="score", inputs=inputs, seed=3) as output:
        (output / "file.txt").write_text("x")


def test_a_result_of_the_same_inputs_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a", setting=(1, 2))
    with caplog.at_level("INFO"):
        header = finished_or_refused(tmp_path / "a", {"setting": [1, 2]})
    assert header is not None
    assert header.stage == "score"
    assert "finished before with the same inputs" in caplog.text


def test_a_result_of_other_inputs_is_refused_with_what_differs(tmp_path: Path) -> None:
    write(tmp_path / "a", seed=0, settings={"ridge": 0.1})
    with pytest.raises(ValueError, match=r"\(score\) of other inputs: settings.ridge was 0.1 and is 0.2$"):
        finished_or_refused(tmp_path / "a", {"seed": 0, "settings": {"ridge": 0.2}})


def test_a_stage_is_made_anew_and_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a", seed=0)
    with caplog.at_level("INFO"):
        assert find_finished(tmp_path / "a", {"seed": 1}) is None
    assert "made anew, since seed was 0 and is 1" in caplog.text


def test_what_is_no_result_is_refused_and_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert finished_or_refused(tmp_path / "new", {}) is None
    (tmp_path / "empty").mkdir()
    assert finished_or_refused(tmp_path / "empty", {}) is None
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be new or empty"):
        finished_or_refused(tmp_path / "mine", {})
    write(tmp_path / "damaged", seed=0)
    (tmp_path / "damaged" / "file.txt").unlink()
    with pytest.raises(ValueError, match="holds a damaged result"):
        finished_or_refused(tmp_path / "damaged", {"seed": 0})


@pytest.mark.parametrize("name", ["artefact.json", "artefact.inputs"])
def test_a_folder_of_an_older_version_is_refused_in_a_clear_line(tmp_path: Path, name: str) -> None:
    for folder in (tmp_path / "a", tmp_path / "b.partial"):
        folder.mkdir()
        (folder / name).write_text("{}")
    for ask in (find_finished, finished_or_refused):
        with pytest.raises(ValueError, match=r"was written by an older version of minitron.*use a new output folder"):
            ask(tmp_path / "a", {})
    for folder in (tmp_path / "a", tmp_path / "b"):
        with pytest.raises(ValueError, match="was written by an older version of minitron"):
            write(folder, seed=0)
