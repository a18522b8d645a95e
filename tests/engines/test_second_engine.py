"""A pruned checkpoint in mlx-lm, which reads config.json and the tensors by itself, against plain transformers."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from minitron.checkpoints.checkpoint import carried_files, open_checkpoint
from minitron.checkpoints.weights import copy_files, open_weights, write_state
from minitron.importance.scores import random_scores
from minitron.importance.selection import select_units
from minitron.models.keep import Keep
from minitron.models.slicing import slice_tensors
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.plan import PrunePlan
from minitron.runtime.building import set_time_step_limit
from tests.support.paths import TEACHER

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mlx_lm") is None, reason="mlx-lm is not installed, `make test-engines` installs it"
)

LAYERS = (0, 1, 2, 3, 4, 7, 8, 9, 10, 11)
TEXTS = ("12 + 30 =", "The cat", "Question: Tom has 3 apples.", "Once upon a time", "7 * 8")
NEW_TOKENS = 64
# Measured 1e-5 at logits up to 16; the smallest distance between the best two logits is 7e-4.
LOGIT_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Greedy tokens [new] and the logits [V] at the end of the prompt."""

    tokens: list[int]
    logits: torch.Tensor


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = open_checkpoint(TEACHER)
    target = source.shape.resized(layers=LAYERS, hidden_size=128, intermediate_size=320, mamba_num_heads=8)
    keep = select_units(random_scores(source.shape, seed=0), source.shape, target, LAYERS)
    plan = PrunePlan(source=source.shape, target=target, keep=keep)
    return prune_checkpoint(source, plan, tmp_path_factory.mktemp("engine") / "pruned").folder


def read_prompts() -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    return [tokenizer(text)["input_ids"] for text in TEXTS]


def ask_transformers(folder: Path) -> list[Answer]:
    """Every token from a pass over the whole text without a cache, time steps limited as in training."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    set_time_step_limit(model)
    answers = []
    for prompt in read_prompts():
        text, at_end = list(prompt), []
        for _ in range(NEW_TOKENS):
            with torch.no_grad():
                at_end.append(model(torch.tensor([text]), use_cache=False).logits[0, -1])
            text.append(int(at_end[-1].argmax()))
        answers.append(Answer(tokens=text[len(prompt) :], logits=at_end[0]))
    return answers


def ask_mlx(folder: Path) -> list[Answer]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("mlx_tokens.py")), str(folder)],
        input=json.dumps({"prompts": read_prompts(), "new_tokens": NEW_TOKENS}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [
        Answer(tokens=answer["tokens"], logits=torch.tensor(answer["logits"])) for answer in json.loads(done.stdout)
    ]


def assert_same(ours: list[Answer], theirs: list[Answer]) -> None:
    assert [answer.tokens for answer in theirs] == [answer.tokens for answer in ours]
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(right.logits, left.logits, rtol=0, atol=LOGIT_TOLERANCE)


def test_the_teacher_generates_the_same_tokens_in_mlx_lm() -> None:
    assert_same(ask_transformers(TEACHER), ask_mlx(TEACHER))


def test_a_checkpoint_pruned_in_width_and_depth_generates_the_same_tokens_in_mlx_lm(pruned: Path) -> None:
    assert_same(ask_transformers(pruned), ask_mlx(pruned))


def test_heads_that_changed_their_group_are_noticed(tmp_path: Path, pruned: Path) -> None:
    whole = open_checkpoint(pruned)
    heads = np.arange(whole.shape.sizes["mamba_num_heads"])
    heads[[0, -1]] = heads[[-1, 0]]  # a plan refuses this: the first group's head would read the last group's B and C
    blocks = enumerate(whole.shape.hybrid_override_pattern)
    moved = {("mamba_num_heads", layer): heads for layer, letter in blocks if letter == "M"}
    keep = Keep(layers=tuple(range(whole.shape.num_hidden_layers)), indices=moved)
    with open_weights(whole) as read:
        write_state(tmp_path, dict(slice_tensors(read, whole.shape, keep)))
    copy_files([*carried_files(pruned), pruned / "config.json"], tmp_path)
    for right, wrong in zip(ask_transformers(pruned), ask_mlx(tmp_path), strict=True):
        assert wrong.tokens != right.tokens
        assert (wrong.logits - right.logits).abs().max() > 100 * LOGIT_TOLERANCE
