"""Commands that are expected to fail."""

import pytest

from minitron.cli.main import main


def fail(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a failing command prints."""
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if line.startswith("minitron: ")]
    assert len(lines) == 1
    assert "Traceback" not in printed.err
    return lines[0]
