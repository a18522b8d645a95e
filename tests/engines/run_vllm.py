"""Programs in vLLM's own environment, which `make test-engines` makes: JSON in, JSON out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PYTHON = Path(os.environ.get("MINITRON_VLLM_PYTHON", Path(sys.prefix) / "vllm" / "bin" / "python"))
NEEDS_VLLM = pytest.mark.skipif(not PYTHON.exists(), reason="vLLM is not installed, `make test-engines` installs it")


def run_vllm(program: str, request: Any, folder: Path) -> Any:
    """What a program beside this file answers; it runs in a folder of the caller's, so that it sees no repository."""
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name(program)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)
