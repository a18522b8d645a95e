"""The stages' work: each reads what earlier stages wrote, calls one part of the package, and writes its own files.

This is the only place where the parts meet; the order of stages, resuming and skipping are `pipeline.py`'s.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from minitron.distill import DistillRecord, DistillSettings, distill
from minitron.evaluate import evaluate_task, evaluate_text, read_problems, tokens_per_second
from minitron.hybrid.blocks import TextSource, blend_sources
from minitron.hybrid.checkpoint import Checkpoint, checkpoint_hashes, file_hash, open_checkpoint
from minitron.hybrid.model import load_model, load_tokenizer, save_model
from minitron.hybrid.ranks import Ranks
from minitron.hybrid.samples import blend_samples
from minitron.hybrid.shape import HybridShape
from minitron.hybrid.stack import LayerwiseStack, MemoryStack, Stack
from minitron.hybrid.text import is_text_file
from minitron.hybrid.weights import write_json
from minitron.importance import (
    SCORED_AXES,
    SCORERS,
    ActivationScorer,
    BlockQuotas,
    CalibrationSettings,
    LogitDepth,
    Scores,
    calibrate,
    load_scores,
    mamba_channels,
    mamba_heads,
    save_scores,
    select_units,
    top_blocks,
)
from minitron.importance.scores import ScoreArray
from minitron.prune import PrunePlan, prune_checkpoint, save_plan
from minitron.recipe import EvaluateSection, Recipe, ScoreSection, Source
from minitron.report.figure import draw_summary
from minitron.report.heatmap import draw_scores
from minitron.search import Workload, memory_bytes, solve_budget

SCORES_FILE = "scores.safetensors"
CANDIDATES_FILE = "candidates.json"
PLAN_FILE = "plan.safetensors"
CHECKPOINT_FOLDER = "checkpoint"
STATE_FOLDER = "state"
RECORD_FILE = "record.json"
METRICS_FILE = "metrics.json"

Folders = Mapping[str, Path]


def check_recipe(recipe: Recipe, teacher: HybridShape) -> None:
    """Refuses, before the first stage runs, what a later one would refuse.

    Raises:
        ValueError: The search asks for more than the teacher has, or distillation for less than one batch.
    """
    depth = calibration_settings(recipe.score).depth
    if depth is not None:
        depth.quotas.check(teacher.hybrid_override_pattern, teacher.num_hidden_layers - depth.remove)
    limits = {**teacher.sizes, "num_hidden_layers": teacher.num_hidden_layers}
    for axis, sizes in recipe.search.space.items():
        if max(sizes) > limits[axis]:
            raise ValueError(f"search.{axis} must not exceed the teacher's {limits[axis]}, got {max(sizes)}")
    section = recipe.distill
    batch_tokens = section.batch_size * section.seq_len
    if section.tokens < batch_tokens:
        raise ValueError(
            f"distill.tokens must fill one batch of {section.batch_size} x {section.seq_len} = {batch_tokens:,} "
            f"tokens, got {section.tokens:,}"
        )


def text_sources(sources: Sequence[Source]) -> list[TextSource]:
    """The recipe's sources as the ground takes them."""
    return [TextSource(**source.model_dump()) for source in sources]


def data_hashes(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """What identifies each source of text: the contents of a file, or the name of a dataset, and how it is read."""
    return [
        {**source.model_dump(exclude={"path"}), "content": file_hash(Path(source.path))}
        if is_text_file(source.path)
        else source.model_dump()
        for source in sources
    ]


def score_origin(teacher: Path, section: ScoreSection, *, seed: int) -> dict[str, Any]:
    """Everything that scores depend on; settings that change speed or memory alone are left out."""
    speed: Any = {"data": True, "batch_size": True, "layerwise": True, "save_every": True, "depth": {"trials_at_once"}}
    return {
        **checkpoint_hashes(teacher),
        "data": data_hashes(section.data),
        "settings": section.model_dump(mode="json", exclude=speed),
        "seed": seed,
    }


def calibration_settings(section: ScoreSection) -> CalibrationSettings:
    """The recipe's settings as the calibration takes them.

    Raises:
        ValueError: A scorer is unknown.
    """
    width, depth = section.width, section.depth
    scorers = {}
    for axis in SCORED_AXES:
        name = getattr(width, axis)
        if name not in SCORERS:
            raise ValueError(f"score.width.{axis} must be one of {', '.join(SCORERS)}, got {name!r}")
        scorers[axis] = SCORERS[name]()
        if name == "activation":
            scorers[axis] = ActivationScorer(
                sequence=width.sequence, batch=width.batch, ffn_preactivation=width.ffn_preactivation
            )
    by_logits = None
    if depth.scorer != "block_influence":
        exactly = {} if depth.keep_attention is None else {"*": depth.keep_attention}
        by_logits = LogitDepth(
            distance=depth.scorer,
            remove=depth.remove,
            quotas=BlockQuotas(exactly=exactly, protected=frozenset(depth.protected)),
            trials_at_once=depth.trials_at_once,
        )
    elif depth.remove:
        raise ValueError("score.depth.remove is for a greedy search by logits, block_influence has none")
    if not depth.remove and (depth.keep_attention is not None or depth.protected):
        raise ValueError("score.depth.keep_attention and protected are for a greedy search: set score.depth.remove")
    return CalibrationSettings(
        width=scorers,
        depth=by_logits,
        depth_samples=depth.samples,
        batch_size=section.batch_size,
        save_every=section.save_every,
    )


def score(
    teacher: Path, section: ScoreSection, output: Path, *, seed: int, device: str, ranks: Ranks | None = None
) -> Scores:
    """Calibrates a checkpoint and writes its scores and pictures of them; goes on where it was interrupted."""
    ranks = ranks or Ranks(device)
    if ranks.count > 1:
        device = str(ranks.device)
    settings = calibration_settings(section)
    checkpoint = open_checkpoint(teacher)
    samples = blend_samples(
        text_sources(section.data),
        load_tokenizer(teacher),
        seq_len=section.seq_len,
        num_samples=section.samples,
        seed=seed,
        packed=section.packed,
    )
    if int(samples.token_ids.max()) >= checkpoint.shape.vocab_size:
        raise ValueError(
            f"token ids must be below the model's vocab_size {checkpoint.shape.vocab_size}, the tokenizer gives "
            f"{int(samples.token_ids.max())}"
        )
    stack: Stack
    if section.layerwise:
        stack = LayerwiseStack(checkpoint, device=device)
    else:
        stack = MemoryStack(load_model(teacher, device=device), checkpoint.shape)
    scores = calibrate(stack, samples, settings, ranks=ranks, state_folder=output / STATE_FOLDER)
    scores = replace(scores, origin=score_origin(teacher, section, seed=seed))
    ranks.wait()
    if ranks.is_first:
        save_scores(scores, output / SCORES_FILE)
        draw_scores(score_rows(scores), scores.depth, checkpoint.shape.hybrid_override_pattern, output)
        shutil.rmtree(output / STATE_FOLDER, ignore_errors=True)
    return scores


def score_rows(scores: Scores) -> dict[str, dict[str, ScoreArray]]:
    """Axis -> label of a row -> the scores of its units, as the pictures show them."""
    rows: dict[str, dict[str, ScoreArray]] = {
        "intermediate_size": {f"block {layer}": score for layer, score in scores.intermediate_size.items()},
        "mamba_num_heads": {f"block {layer}": mamba_heads(score) for layer, score in scores.mamba.items()},
        "mamba_head_dim": {f"block {layer}": mamba_channels(score) for layer, score in scores.mamba.items()},
        "num_attention_heads": {f"block {layer}": score for layer, score in scores.num_attention_heads.items()},
    }
    if scores.hidden_size is not None:
        rows["hidden_size"] = {"all blocks": scores.hidden_size}
    return {axis: found for axis, found in rows.items() if found}


def run_score(recipe: Recipe, folders: Folders, output: Path) -> None:
    """Teacher -> scores."""
    score(Path(recipe.teacher), recipe.score, output, seed=recipe.seed, device=recipe.device)


def run_search(recipe: Recipe, folders: Folders, output: Path) -> None:
    """Teacher's shape + scores -> candidates within the budget."""
    source = open_checkpoint(Path(recipe.teacher)).shape
    scores = load_scores(folders["score"] / SCORES_FILE)
    quotas = BlockQuotas(at_least={"*": recipe.search.keep_attention})
    workload, budget_bytes = recipe.budget.workload, recipe.budget.budget_bytes
    result = solve_budget(
        source,
        recipe.search.space,
        workload,
        budget_bytes,
        kept_layers=lambda kept: top_blocks(scores.depth, source.hybrid_override_pattern, kept, quotas=quotas),
        top_k=recipe.search.top_k,
    )
    write_json(
        output / CANDIDATES_FILE,
        {
            "budget_bytes": budget_bytes,
            "num_shapes": result.num_shapes,
            "num_feasible": result.num_feasible,
            "teacher": {"params": source.params, "memory": asdict(memory_bytes(source, workload))},
            "candidates": [
                {
                    "layers": candidate.layers,
                    "shape": asdict(candidate.shape),
                    "params": candidate.shape.params,
                    "memory": asdict(candidate.memory),
                }
                for candidate in result.candidates
            ],
        },
    )


def prune(source: Checkpoint, scores: Scores, target: HybridShape, layers: tuple[int, ...], output: Path) -> Checkpoint:
    """Cuts a checkpoint to a shape by scores; writes the checkpoint into `output`."""
    plan = PrunePlan(source=source.shape, target=target, keep=select_units(scores, source.shape, target, layers))
    written = prune_checkpoint(source, plan, output)
    save_plan(plan, output.with_name(PLAN_FILE))
    return written


def run_prune(recipe: Recipe, folders: Folders, output: Path) -> None:
    """Teacher + scores + first candidate -> pruned checkpoint."""
    candidate = read_candidates(folders["search"])["candidates"][0]
    shutil.rmtree(output / CHECKPOINT_FOLDER, ignore_errors=True)
    prune(
        open_checkpoint(Path(recipe.teacher)),
        load_scores(folders["score"] / SCORES_FILE),
        HybridShape(**candidate["shape"]),
        tuple(candidate["layers"]),
        output / CHECKPOINT_FOLDER,
    )


def recover(recipe: Recipe, student: PreTrainedModel, template: Checkpoint, output: Path) -> DistillRecord:
    """Distils a student from the recipe's teacher and writes it as a checkpoint like another one."""
    section = recipe.distill
    teacher = Path(recipe.teacher)
    blocks_NT = blend_sources(
        text_sources(section.data),
        load_tokenizer(teacher),
        seq_len=section.seq_len,
        num_blocks=max(1, section.tokens // section.seq_len),
        seed=recipe.seed,
    )
    settings = DistillSettings(
        batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        warmup_steps=section.warmup_steps,
        temperature=section.temperature,
        weight_decay=section.weight_decay,
        save_steps=section.save_steps,
    )
    record = distill(
        student,
        load_model(teacher, device=recipe.device),
        blocks_NT,
        settings,
        state_folder=output / STATE_FOLDER,
        seed=recipe.seed,
    )
    save_model(student, template, output / CHECKPOINT_FOLDER)
    write_json(output / RECORD_FILE, asdict(record))
    shutil.rmtree(output / STATE_FOLDER, ignore_errors=True)
    return record


def run_distill(recipe: Recipe, folders: Folders, output: Path) -> None:
    """Pruned checkpoint + teacher -> distilled checkpoint and its loss curve."""
    pruned = open_checkpoint(folders["prune"] / CHECKPOINT_FOLDER)
    recover(recipe, load_model(pruned.folder, device=recipe.device), pruned, output)


def evaluate(
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
    blocks_NT = blend_sources(
        text_sources(section.data), tokenizer, seq_len=section.seq_len, num_blocks=section.blocks, seed=seed
    )
    text = evaluate_text(model, blocks_NT, teacher=teacher)
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
        name: evaluate(
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


def run_report(recipe: Recipe, folders: Folders, output: Path) -> None:
    """metrics, candidates and loss curve -> one picture."""
    draw_summary(
        read_metrics(folders["evaluate"]),
        budget_bytes=recipe.budget.budget_bytes,
        context_tokens=recipe.budget.context_tokens,
        curve=json.loads((folders["distill"] / RECORD_FILE).read_text())["curve"],
        title=recipe.name,
        path=output / "summary.png",
    )


def read_candidates(folder: Path) -> dict[str, Any]:
    """The search stage's result."""
    candidates: dict[str, Any] = json.loads((folder / CANDIDATES_FILE).read_text())
    return candidates


def read_metrics(folder: Path) -> dict[str, Any]:
    """The evaluate stage's result."""
    metrics: dict[str, Any] = json.loads((folder / METRICS_FILE).read_text())
    return metrics
