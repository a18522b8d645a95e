"""vLLM on CPU against transformers: teachers of published families, and students cut along every axis."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.integrations.readers.check import check
from tests.engines.reference import TOLERANCE, Answer, ask_transformers, assert_same
from tests.engines.run_vllm import NEEDS_VLLM
from tests.engines.teachers import TEACHERS, write_teacher_and_student
from tests.engines.test_vllm import ask_vllm

pytestmark = NEEDS_VLLM

# Not asked: qwen3_5_text and qwen3_5_moe_text. Their module in vLLM imports torchvision, and its kernel of gated
# DeltaNets for CPUs computes in bf16 alone ("CPU GDN attention requires BF16"), which says little to 4 digits; mlx-lm
# judges those.
ASKED = [name for name in TEACHERS if not name.startswith("qwen3_5")]
# vLLM dropped its own model of bamba; its way to run others through transformers cannot run Mamba's layers.
REFUSED = {"bamba": "does not dispatch through the Transformers attention interface"}
Answers = Mapping[str, Mapping[str, list[Answer] | str]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, Path]]:
    root = tmp_path_factory.mktemp("families")
    return {name: write_teacher_and_student(name, root / name) for name in ASKED}


@pytest.fixture(scope="module")
def answers(folders: Mapping[str, Mapping[str, Path]]) -> Answers:
    """Of every teacher and student; one process loads one after the other, those last that end it amid its start."""
    ordered = sorted(folders, key=lambda name: name in REFUSED)
    found: Iterator[list[Answer] | str] = iter(
        ask_vllm([folder for name in ordered for folder in folders[name].values()])
    )
    return {name: {what: next(found) for what in folders[name]} for name in ordered}


@pytest.mark.parametrize("name", [name for name in ASKED if name not in REFUSED])
def test_teacher_and_student_give_the_tokens_and_probabilities_of_transformers(
    folders: Mapping[str, Mapping[str, Path]], answers: Answers, name: str
) -> None:
    for what, found in answers[name].items():
        assert not isinstance(found, str), f"{what}: {found}"
        expected = ask_transformers(folders[name][what])
        assert_same(expected, found)
        # Answers that repeat a token, or of which all tokens are as likely, would say little.
        assert max(len(set(answer.tokens)) for answer in expected) > 5
        assert torch.cat([answer.logprobs for answer in expected]).std() > 1000 * TOLERANCE
        written = open_checkpoint(folders[name][what])
        assert check(written.config, written.shape, "vllm") == ()


@pytest.mark.parametrize("name", REFUSED)
def test_what_check_refuses_vllm_refuses_itself(
    folders: Mapping[str, Mapping[str, Path]], answers: Answers, name: str
) -> None:
    found = answers[name]["teacher"]
    assert isinstance(found, str)
    assert REFUSED[name] in found
    written = open_checkpoint(folders[name]["teacher"])
    assert [refusal.key for refusal in check(written.config, written.shape, "vllm")] == ["model_type"]
