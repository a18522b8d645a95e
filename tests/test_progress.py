import pytest

from minitron import progress
from minitron.progress import progress_bar, track


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)


def test_without_a_terminal_lines_tell_how_far_it_is_and_what_time_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(3), "distill", total=3)) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["distill       1/3", "distill       2/3", "distill       3/3"]
    assert lines[-1].endswith("0:00:00 left")


def test_bytes_are_counted_in_mebibytes(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(of_bytes=True) as bar:
        bar.advance(bar.add_task("write", total=6 * 2**20), 3 * 2**20)
    assert capsys.readouterr().err.startswith("write         3/6 MiB")


def test_short_loops_and_processes_but_the_first_are_quiet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "1")
        assert list(track(range(2), "distill", total=2)) == [0, 1]
    monkeypatch.setattr(progress, "LINE_EVERY_S", 20.0)
    assert list(track(range(2), "distill", total=2)) == [0, 1]
    assert capsys.readouterr().err == ""
