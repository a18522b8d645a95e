"""Reasoning tasks: greedy generation, an answer after the thinking trace, checked by exact match."""

# B problems of a batch, T tokens

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minitron.data.formats.jsonl import read_jsonl
from minitron.data.special_tokens import encode_prompts
from minitron.errors import DataError
from minitron.progress import track

END_OF_THINKING = "</think>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A prompt and the answer that is expected after the thinking trace."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvaluation:
    """Fraction of problems answered exactly, and their number."""

    exact_match: float
    problems: int


def read_problems(path: Path, *, limit: int | None = None) -> list[Problem]:
    """Problems from a JSON-lines file with the fields `prompt` and `answer`, at most `limit` of them.

    Raises:
        DataError: The file is missing or empty, or a line lacks a field.
    """
    problems: list[Problem] = []
    for row in read_jsonl(path):
        if limit is not None and len(problems) == limit:
            break
        prompt, answer = row.values.get("prompt"), row.values.get("answer")
        if not isinstance(prompt, str) or not isinstance(answer, str):
            raise DataError(
                f"a problem needs the text fields prompt and answer, {row.where} has {', '.join(row.names)}"
            )
        if not answer.strip():
            raise DataError(f"a problem needs an answer that is not blank, {row.where} has none")
        problems.append(Problem(prompt=prompt, answer=answer.strip()))
    if not problems:
        raise DataError(f"a task needs at least one problem, {path} has none")
    return problems


def extract_answer(generated: str) -> str:
    """The answer after the thinking trace, stripped; all text without a trace, nothing if the trace never ends.

    >>> extract_answer("<think>7+5=2</think> 2")
    '2'
    >>> extract_answer("<think>7+5=")
    ''
    """
    if "<think>" in generated and END_OF_THINKING not in generated:
        return ""
    return generated.rpartition(END_OF_THINKING)[2].strip()


@torch.no_grad()
def evaluate_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
) -> TaskEvaluation:
    """Answers every problem by greedy generation and compares the answers exactly.

    Problems of similar length share a batch, so that little is padded (on the left).
    """
    ordered = sorted(problems, key=lambda problem: len(problem.prompt))
    starts = range(0, len(ordered), batch_size)
    correct = 0
    stops = _stop_tokens(model, tokenizer)
    for start in track(starts, "evaluate task", total=len(starts)):
        batch = ordered[start : start + batch_size]
        ids_BT, mask_BT = _padded_left(encode_prompts([problem.prompt for problem in batch], tokenizer), model.device)
        output_BT = model.generate(
            ids_BT,
            attention_mask=mask_BT,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted(stops) or None,
        )
        new_BT = output_BT[:, ids_BT.shape[1] :]
        for problem, new_T in zip(batch, new_BT, strict=True):
            correct += extract_answer(_decode(tokenizer, new_T, stops)) == problem.answer
    return TaskEvaluation(exact_match=correct / len(problems), problems=len(problems))


def _padded_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    # Any id will do for padding, which the mask [B, T] hides.
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    configured: int | list[int] | None = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [] if configured is None else [configured]
    named = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return {*named, *listed}


def _decode(tokenizer: PreTrainedTokenizerBase, ids_T: torch.Tensor, stops: set[int]) -> str:
    # A stop token cuts the answer; thinking marks may be special tokens, so they must survive decoding.
    ids = list(itertools.takewhile(lambda token: token not in stops, ids_T.tolist()))
    return str(tokenizer.decode(ids, skip_special_tokens=False))
