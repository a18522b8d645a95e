"""Metrics of a loaded checkpoint, as a recipe's evaluate section describes them."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.checkpoints.finite import naming_weights
from minitron.data.masks import PackedText
from minitron.data.sequences import blend_text
from minitron.data.special_tokens import encode_prompts
from minitron.data.token_ids import require_model_ids
from minitron.data.tokenizer import DecodingTokenizer, Tokenizer
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.evaluate.bits import bits_per_byte
from minitron.evaluate.metrics import Metrics
from minitron.evaluate.perplexity import TextEvaluation, evaluate_text
from minitron.evaluate.speed.generate import run_wave
from minitron.evaluate.speed.measure import RunWave, measure
from minitron.evaluate.speed.settings import SpeedSettings
from minitron.evaluate.speed.wave import Speed
from minitron.evaluate.task import evaluate_task, read_problems
from minitron.evaluate.teacher_states import TeacherStates
from minitron.pipeline.evaluating.plan import EvaluationPlan
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
    model: PreTrainedModel, folder: Path, plan: EvaluationPlan, *, teacher: PreTrainedModel | TeacherStates | None
) -> Metrics:
    """Measures a loaded checkpoint: parameters, bytes at the workload, loss, KL to the teacher, exact match, speed.

    Several processes share the text out; what is generated, for task and speed, the first one measures alone.

    Args:
        model: The loaded model; the teacher itself may be measured against itself.
        folder: Its checkpoint.
        plan: What it is measured on.
        teacher: The teacher, or its kept states, or None to leave the KL out.
    """
    section, ranks = plan.section, plan.ranks
    beside = teacher.model if isinstance(teacher, TeacherStates) else teacher
    checkpoint, tokenizer = open_checkpoint(folder), load_tokenizer(folder)
    sequences_NT = held_out_text(section, tokenizer, seed=plan.execution.seed)
    vocab_size = min(len(output_head(one)) for one in (model, beside) if one is not None)
    require_model_ids(sequences_NT, tokenizer, vocab_size)
    problems = []
    if section.task is not None:
        problems = read_problems(Path(section.task.path), limit=section.task.problems)
        for prompt in encode_prompts([problem.prompt for problem in problems], tokenizer):
            require_model_ids(np.asarray(prompt), tokenizer, vocab_size)
    with naming_weights(checkpoint):
        text = evaluate_text(model, sequences_NT, teacher=teacher, ranks=ranks)
    found = text_metrics(checkpoint, plan.workload, text, sequences_NT, tokenizer)

    def generated() -> Metrics:
        whole = found
        if section.task is not None:
            task = evaluate_task(model, tokenizer, problems, max_new_tokens=section.task.max_new_tokens)
            whole = replace(whole, task=section.task.name, exact_match=task.exact_match, problems=task.problems)
        if section.speed is not None:
            whole = replace(whole, speed=_speed(model, beside, section.speed, vocab_size=vocab_size))
        return whole

    return ranks.on_main(generated)


def text_metrics(
    checkpoint: Checkpoint,
    workload: Workload,
    text: TextEvaluation,
    sequences_NT: PackedText,
    tokenizer: DecodingTokenizer,
) -> Metrics:
    """What is known of a checkpoint without generation.

    Args:
        checkpoint: The checkpoint.
        workload: What the bytes are for.
        text: Its loss and KL.
        sequences_NT: The text that they were measured on.
        tokenizer: Whose tokens the text is in.
    """
    return Metrics(
        params=checkpoint.params,
        memory=memory_bytes(checkpoint.shape, workload),
        loss=text.loss,
        kl_to_teacher=text.kl_to_teacher,
        bits_per_byte=bits_per_byte(text.loss, sequences_NT, tokenizer),
        speed=None,
    )


def _speed(
    model: PreTrainedModel, teacher: PreTrainedModel | None, settings: SpeedSettings, *, vocab_size: int
) -> Speed:
    """The model's speed in turn with the teacher's, whose tokens a second its ratio is to."""
    models = {"teacher": teacher, "model": model} if teacher not in (None, model) else {"model": model}
    runs: dict[str, RunWave] = {name: partial(run_wave, one) for name, one in models.items()}
    return measure(runs, settings, vocab_size=vocab_size)["model"]
