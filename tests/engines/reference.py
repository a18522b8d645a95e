"""What transformers says of a checkpoint, token by token without a cache, and an engine's answer held against it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from minitron.runtime.loading import load_model

# Ids below 271, the smallest vocabulary of the checkpoints.
PROMPTS = (
    (5, 77, 103, 9, 250, 41, 168, 33, 201, 12, 66, 140),
    (1, 64, 90, 40, 17, 88, 200, 31),
    (1, 100, 101, 30),
)
NEW_TOKENS = 32
# Of log-probabilities in fp32 nats; measured 1e-5 in vLLM, 5e-6 in llama.cpp.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Greedy tokens [new], and log-probabilities [prompt - 1 + new] of prompt and answer but the first token."""

    tokens: list[int]
    logprobs: torch.Tensor


def ask_transformers(folder: Path, prompts: Sequence[Sequence[int]] = PROMPTS) -> list[Answer]:
    """Every token from a pass over the whole text, time steps limited as in training."""
    model = load_model(folder)
    return [ask_model(model, prompt) for prompt in prompts]


@torch.no_grad()
def ask_model(model: PreTrainedModel, prompt: Sequence[int]) -> Answer:
    """What a loaded model says to one prompt."""
    text = list(prompt)
    for _ in range(NEW_TOKENS):
        text.append(int(model(torch.tensor([text]), use_cache=False).logits[0, -1].argmax()))
    return Answer(tokens=text[len(prompt) :], logprobs=logprobs_of(model, text))


@torch.no_grad()
def logprobs_of(model: PreTrainedModel, text: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of a text's tokens but the first."""
    log_probs_TV = model(torch.tensor([text]), use_cache=False).logits[0, :-1].float().log_softmax(-1)
    return log_probs_TV.gather(1, torch.tensor(text[1:])[:, None])[:, 0]


def assert_same(expected: Sequence[Answer], found: Sequence[Answer]) -> None:
    """The same greedy tokens, and log-probabilities within the tolerance."""
    assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.logprobs, other.logprobs, rtol=0, atol=TOLERANCE)
