"""Dry runs by the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from minitron.cli.main import main


def forecast(capsys: pytest.CaptureFixture[str], recipe: Path, *argv: str) -> dict[str, Any]:
    assert main(["run", str(recipe), "--dry-run", "--json", *argv]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def commands(found: dict[str, Any]) -> list[str]:
    return [command for step in found["launch"] for command in step["commands"]]
