"""Metrics of a checkpoint, as a recipe's evaluate section describes them."""

from functools import partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.finite import naming_weights
from minitron.data.masks import PackedText
from minitron.data.sequences import blend_text
from minitron.data.special_tokens import encode_prompts
from minitron.data.token_ids import require_model_ids
from minitron.data.tokenizer import Tokenizer
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.evaluate.bits import bits_per_byte
from minitron.evaluate.metrics import Metrics
from minitron.evaluate.perplexity import evaluate_text
from minitron.evaluate.speed.generate import run_wave
from minitron.evaluate.speed.measure import RunWave, measure
from minitron.evaluate.speed.wave import Speed
from minitron.evaluate.task import evaluate_task, read_problems
from minitron.pipeline.text import text_sources
from minitron.recipe.evaluate import EvaluateSection
from minitron.runtime.backbone import output_head
from minitron.runtime.loading import load_tokenizer


def held_out_text(section: EvaluateSection, tokenizer: Tokenizer, *, seed: int) -> PackedText:
    """The section's text, packed, in the order that a seed fixes."""
    return blend_text(
        text_sources(section.data, held_out=True),
        tokenizer,
        seq_len=section.seq_len,
        num_sequences=section.sequences,
        seed=seed,
    )


def evaluate_model(
    model: PreTrainedModel,
    folder: Path,
    section: EvaluateSection,
    workload: Workload,
    *,
    teacher: PreTrainedModel | None,
    seed: int,
) -> Metrics:
    """Measures a loaded checkpoint: parameters, bytes at the workload, loss, KL to the teacher, exact match, speed.

    Args:
        model: The loaded model; the teacher itself may be measured against itself.
        folder: Its checkpoint.
        section: What it is measured on.
        workload: What the bytes are for.
        teacher: The teacher, or None to leave the KL out.
        seed: Seed of the order of the text.
    """
    checkpoint, tokenizer = open_checkpoint(folder), load_tokenizer(folder)
    sequences_NT = held_out_text(section, tokenizer, seed=seed)
    vocab_size = min(len(output_head(one)) for one in (model, teacher) if one is not None)
    require_model_ids(sequences_NT, tokenizer, vocab_size)
    problems = []
    if section.task is not None:
        problems = read_problems(Path(section.task.path), limit=section.task.problems)
        for prompt in encode_prompts([problem.prompt for problem in problems], tokenizer):
            require_model_ids(np.asarray(prompt), tokenizer, vocab_size)
    with naming_weights(checkpoint):
        text = evaluate_text(model, sequences_NT, teacher=teacher)
    task = None
    if section.task is not None:
        task = evaluate_task(model, tokenizer, problems, max_new_tokens=section.task.max_new_tokens)
    speed = _speed(model, teacher, section, vocab_size=vocab_size)
    return Metrics(
        params=checkpoint.params,
        memory=memory_bytes(checkpoint.shape, workload),
        loss=text.loss,
        kl_to_teacher=text.kl_to_teacher,
        bits_per_byte=bits_per_byte(text.loss, sequences_NT, tokenizer),
        speed=speed,
        task=None if section.task is None else section.task.name,
        exact_match=None if task is None else task.exact_match,
        problems=None if task is None else task.problems,
    )


def _speed(
    model: PreTrainedModel, teacher: PreTrainedModel | None, section: EvaluateSection, *, vocab_size: int
) -> Speed:
    """The model's speed in turn with the teacher's, whose tokens a second its ratio is to."""
    models = {"teacher": teacher, "model": model} if teacher not in (None, model) else {"model": model}
    runs: dict[str, RunWave] = {name: partial(run_wave, one) for name, one in models.items()}
    return measure(runs, section.speed, vocab_size=vocab_size)["model"]
