"""vLLM on CPU against transformers: teachers of every family, each cut in every way, distilled and merged."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from tests.engines.checkpoints import EVERYTHING, FAMILIES, TRAINED, move_heads, write_checkpoints
from tests.engines.reference import NEW_TOKENS, PROMPTS, TOLERANCE, Answer, ask_transformers, assert_same
from tests.engines.run_vllm import NEEDS_VLLM, run_vllm

pytestmark = NEEDS_VLLM

# vLLM 0.32 has no kernel for CPUs of experts without gates, which are nemotron_h's; llama.cpp and mlx-lm judge those.
REFUSED = {"nemotron_h with experts": "is_act_and_mul=False is supported only for CUDA"}
SERVED = [name for name in (*FAMILIES, TRAINED) if name not in REFUSED]


def ask_vllm(folders: Sequence[Path], prompts: Sequence[Sequence[int]] = PROMPTS) -> list[list[Answer] | str]:
    """Each checkpoint's answers, or why vLLM refuses it; one process loads one after the other."""
    request = {"models": [str(folder) for folder in folders], "prompts": prompts, "new_tokens": NEW_TOKENS}
    return [
        [Answer(tokens=one["tokens"], logprobs=torch.tensor(one["logprobs"])) for one in model]
        if isinstance(model, list)
        else model["error"]
        for model in run_vllm("vllm_tokens.py", request, folders[0])
    ]


@pytest.fixture(scope="module", params=SERVED)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return write_checkpoints(request.param, tmp_path_factory.mktemp("served"))


def test_every_checkpoint_gives_the_tokens_and_probabilities_of_transformers(
    family: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    answers = ask_vllm(list(family.values()))
    for (what, folder), found in zip(family.items(), answers, strict=True):
        assert not isinstance(found, str), f"{what}: {found}"
        assert_same(ask_transformers(folder), found)
    with capsys.disabled():
        tokens = sum(len(answer.tokens) for found in answers for answer in found if isinstance(answer, Answer))
        print(f"\nvLLM: {len(family)} checkpoints ({', '.join(family)}), {tokens:,} greedy tokens are transformers'")


def test_heads_that_changed_their_group_are_noticed(tmp_path: Path) -> None:
    pruned = write_checkpoints("nemotron_h", tmp_path)[EVERYTHING]
    (found,) = ask_vllm([move_heads(pruned, tmp_path / "moved")])
    assert not isinstance(found, str), found
    for right, wrong in zip(ask_transformers(pruned), found, strict=True):
        assert wrong.tokens != right.tokens
        assert (wrong.logprobs[:3] - right.logprobs[:3]).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", REFUSED)
def test_what_vllm_cannot_serve_on_a_cpu_is_refused_by_vllm_itself(tmp_path: Path, name: str) -> None:
    (found,) = ask_vllm([write_checkpoints(name, tmp_path)["teacher"]])
    assert isinstance(found, str)
    assert REFUSED[name] in found
