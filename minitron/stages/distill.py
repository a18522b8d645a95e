"""Pruned checkpoint + teacher -> distilled checkpoint and its loss curve."""

import shutil
from dataclasses import asdict
from pathlib import Path

from transformers import PreTrainedModel

from minitron.distill import DistillRecord, DistillSettings, distill
from minitron.hybrid.blocks import blend_sources
from minitron.hybrid.checkpoint import Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.hybrid.lineage import lineage_of
from minitron.hybrid.model import load_model, load_tokenizer, save_model
from minitron.hybrid.weights import write_json
from minitron.recipe import DistillSection, Recipe
from minitron.stages.about import write_about
from minitron.stages.data import data_hashes, text_sources
from minitron.stages.files import CHECKPOINT_FOLDER, RECORD_FILE, STATE_FOLDER, Folders


def distill_settings(section: DistillSection) -> DistillSettings:
    """The recipe's settings as distillation takes them."""
    return DistillSettings(
        batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        warmup_steps=section.warmup_steps,
        temperature=section.temperature,
        weight_decay=section.weight_decay,
        save_steps=section.save_steps,
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
    record = distill(
        student,
        load_model(teacher, device=recipe.device),
        blocks_NT,
        distill_settings(section),
        state_folder=output / STATE_FOLDER,
        seed=recipe.seed,
    )
    written = save_model(student, template, output / CHECKPOINT_FOLDER)
    write_about(
        written,
        lineage_of(template, hashes=checkpoint_hashes(template.folder)),
        "distill",
        recipe=recipe.name,
        seed=recipe.seed,
        tokens=record.tokens,
        settings=section.model_dump(exclude={"data", "tokens", "save_steps"}),
        data=data_hashes(section.data),
    )
    write_json(output / RECORD_FILE, asdict(record))
    shutil.rmtree(output / STATE_FOLDER, ignore_errors=True)
    return record


def run_distill(recipe: Recipe, folders: Folders, output: Path) -> None:
    """Pruned checkpoint + teacher -> distilled checkpoint and its loss curve."""
    pruned = open_checkpoint(folders["prune"] / CHECKPOINT_FOLDER)
    recover(recipe, load_model(pruned.folder, device=recipe.device), pruned, output)
