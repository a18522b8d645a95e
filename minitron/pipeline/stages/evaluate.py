"""Checkpoints -> their metrics."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from minitron.artifacts.json_files import write_json
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.sequences import blend_sources
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.evaluate.perplexity import evaluate_text
from minitron.evaluate.speed import tokens_per_second
from minitron.evaluate.task import evaluate_task, read_problems
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, METRICS_FILE, Folders
from minitron.pipeline.text import text_sources
from minitron.recipe.evaluate import EvaluateSection
from minitron.recipe.recipe import Recipe
from minitron.runtime.loading import load_model, load_tokenizer


def evaluate_folder(
    folder: Path,
    section: EvaluateSection,
    workload: Workload,
    *,
    teacher: PreTrainedModel | None,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """Measures one checkpoint: parameters, bytes at the workload, loss, KL to the teacher, exact match, speed."""
    checkpoint, tokenizer = open_checkpoint(folder), load_tokenizer(folder)
    model = load_model(folder, device=device)
    sequences_NT = blend_sources(
        text_sources(section.data, held_out=True),
        tokenizer,
        seq_len=section.seq_len,
        num_sequences=section.blocks,
        seed=seed,
    )
    text = evaluate_text(model, sequences_NT, teacher=teacher)
    metrics: dict[str, Any] = {
        "params": checkpoint.params,
        "memory": asdict(memory_bytes(checkpoint.shape, workload)),
        "loss": text.loss,
        "kl_to_teacher": text.kl_to_teacher,
    }
    if section.task is not None:
        problems = read_problems(Path(section.task.path), limit=section.task.problems)
        task = evaluate_task(model, tokenizer, problems, max_new_tokens=section.task.max_new_tokens)
        metrics |= {"task": section.task.name, "exact_match": task.exact_match, "problems": task.problems}
    metrics["tokens_per_s"] = tokens_per_second(
        model, batch_size=1, prompt_tokens=32, new_tokens=section.speed_new_tokens
    )
    return metrics


def run_evaluate(recipe: Recipe, folders: Folders, output: Path) -> None:
    """teacher, pruned and distilled checkpoints -> their metrics."""
    teacher = load_model(Path(recipe.teacher), device=recipe.device)
    checkpoints = {
        "teacher": Path(recipe.teacher),
        "pruned": folders["prune"] / CHECKPOINT_FOLDER,
        "distilled": folders["distill"] / CHECKPOINT_FOLDER,
    }
    metrics = {
        name: evaluate_folder(
            folder,
            recipe.evaluate,
            recipe.budget.workload,
            teacher=teacher,
            seed=recipe.seed,
            device=recipe.device,
        )
        for name, folder in checkpoints.items()
    }
    write_json(output / METRICS_FILE, metrics)
