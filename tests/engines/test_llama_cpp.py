"""Exported files in stock llama.cpp, which reads them by itself, against plain transformers."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

import minitron
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.importance.scores import random_scores
from minitron.importance.selection import select_units
from minitron.models.shape import HybridShape
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.plan import PrunePlan
from minitron.runtime.loading import load_model
from tests.support.gguf_files import SHAPES, make_mergeable_tokenizer, write_exportable
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_shape
from tests.support.paths import TEACHER

# `make test-engines` installs it there.
FOLDER = Path(os.environ.get("MINITRON_LLAMA_CPP", Path(sys.prefix) / "llama-cpp"))
pytestmark = pytest.mark.skipif(
    not (FOLDER / "node_modules" / "node-llama-cpp").is_dir(),
    reason="node-llama-cpp is not installed, `make test-engines` installs it",
)

NEW_TOKENS = 32
PROMPT = [5, 77, 103, 9, 250, 41, 168, 33, 201, 12, 66, 140]
TEXTS = ("12 + 30 =", "The cat", "Question: Tom has 3 apples.", "Once upon a time", "7 * 8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Greedy tokens [new], and the logits [T, V] after every token of prompt and answer but the last."""

    tokens: list[int]
    logits: torch.Tensor


def ask_llama_cpp(model: Path, prompts: Sequence[Sequence[int]] = (), texts: Sequence[str] = ()) -> tuple[list[Answer], list[list[int]]]:
    request = {"model": str(model), "prompts": prompts, "new_tokens": NEW_TOKENS, "texts": texts}
    node = shutil.which("node", path=f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert node is not None
    done = subprocess.run(
        [node, str(Path(__file__).with_name("llama_cpp.mjs")), str(FOLDER)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    found = [Answer(tokens=each["tokens"], logits=torch.tensor(each["logits"])) for each in answer["answers"]]
    return found, answer["ids"]
