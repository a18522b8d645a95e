"""Stock llama.cpp, which `make test-engines` installs, as a process that answers."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

FOLDER = Path(os.environ.get("MINITRON_LLAMA_CPP", Path(sys.prefix) / "llama-cpp"))
NEEDS_LLAMA_CPP = pytest.mark.skipif(
    not (FOLDER / "node_modules" / "node-llama-cpp").is_dir(),
    reason="node-llama-cpp is not installed, `make test-engines` installs it",
)
NEW_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Greedy tokens [new], and the logits [T, V] after every token of prompt and answer but the last."""

    tokens: list[int]
    logits: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCpp:
    """A running llama.cpp: its process, and where that writes its complaints."""

    process: subprocess.Popen[str]
    complaints: Path

    def ask(
        self,
        model: Path,
        prompts: Sequence[Sequence[int]] = (),
        *,
        texts: Sequence[str] = (),
        new_tokens: int = NEW_TOKENS,
    ) -> tuple[list[Answer], list[list[int]]]:
        """The answers to prompts, and the ids of texts."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"model": str(model), "prompts": prompts, "new_tokens": new_tokens, "texts": texts}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.complaints.read_text()
        answer = json.loads(line)
        found = [Answer(tokens=each["tokens"], logits=torch.tensor(each["logits"])) for each in answer["answers"]]
        return found, answer["ids"]


@contextmanager
def start_llama_cpp(complaints: Path) -> Iterator[LlamaCpp]:
    """A process that runs until the caller is done; its complaints go to a file."""
    node = shutil.which("node", path=f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert node is not None
    program = [node, str(Path(__file__).with_name("llama_cpp.mjs")), str(FOLDER)]
    with (
        complaints.open("w") as errors,
        subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        yield LlamaCpp(process=process, complaints=complaints)
