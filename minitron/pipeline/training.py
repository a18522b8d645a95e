"""What a recipe's sections of training mean: settings, text and teachers as distillation takes them."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from minitron.artifacts.json_files import write_json
from minitron.checkpoints.checkpoint import Checkpoint, checkpoint_hashes, open_checkpoint, tokenizer_hash
from minitron.data.packing import shared_sequence_file
from minitron.data.sources import Blend
from minitron.distill.dataset import PackedSequences
from minitron.distill.loss.divergences import DIVERGENCES
from minitron.distill.loss.divergences.jsd import JSD
from minitron.distill.loss.objective import Objective
from minitron.distill.sharding import full_state
from minitron.distill.teachers.layerwise import LayerwiseTeacher
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.teachers.teacher import Teacher
from minitron.distill.training.model import HiddenMatch
from minitron.distill.training.stage import DistillRecord, DistillSettings
from minitron.distributed import Ranks
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, RECORD_FILE, TRAINED_FOLDER, Folders
from minitron.pipeline.text import data_hashes, text_sources
from minitron.recipe.distill import SPEED_SETTINGS, WATCHING_SETTINGS, DistillSection, LossSection, TrainSection
from minitron.recipe.recipe import Recipe
from minitron.runtime.dtypes import torch_dtype
from minitron.runtime.loading import load_model, load_tokenizer, save_model
from minitron.runtime.stack import LayerwiseStack


def objective_of(section: LossSection) -> Objective:
    """What a recipe's loss minimizes."""
    return Objective(
        divergence=JSD(beta=section.beta) if section.divergence == "jsd" else DIVERGENCES[section.divergence](),
        temperature=section.temperature,
        cross_entropy=section.cross_entropy,
    )


def train_settings(
    section: TrainSection, objective: Objective, *, hidden: HiddenMatch | None = None
) -> DistillSettings:
    """A stage's settings as distillation takes them."""
    return DistillSettings(
        objective=objective,
        hidden=hidden,
        epochs=section.epochs,
        batch_size=section.batch_size,
        micro_batch_size=section.micro_batch_size,
        learning_rate=section.learning_rate,
        min_learning_rate=section.min_learning_rate,
        warmup_steps=section.warmup_steps,
        weight_decay=section.weight_decay,
        max_grad_norm=section.max_grad_norm,
        optim=section.optim,
        optim_args=section.optim_args,
        bf16=section.precision == "bf16",
        gradient_checkpointing=section.gradient_checkpointing,
        offload_activations=section.offload_activations,
        sharded=section.sharding == "fsdp2",
        chunk_tokens=section.chunk_tokens,
        save_steps=section.save_steps,
        report_to=section.report_to,
    )


def train_origin(section: TrainSection) -> dict[str, Any]:
    """Everything in a section of training that its result depends on, text and curriculum included.

    What changes speed or memory alone is left out, and a curriculum is told by its stages, however they are written.
    """
    stages = section.curriculum if isinstance(section, DistillSection) else (section,)
    left_out = SPEED_SETTINGS | WATCHING_SETTINGS | {"data", "stages", "merge"}
    origin: dict[str, Any] = {
        "stages": [
            {
                **stage.model_dump(mode="json", exclude={*left_out, "teacher"}),
                **_teacher_origin(stage),
                "data": data_hashes(stage.data),
            }
            for stage in stages
        ]
    }
    if isinstance(section, DistillSection):
        origin["merge"] = list(section.merge)
    return origin


def _teacher_origin(stage: TrainSection) -> dict[str, Any]:
    if not isinstance(stage, DistillSection):
        return {}
    cached = stage.teacher.mode == "cached"
    kept = {"top_k": stage.teacher.top_k, "samples": stage.samples} if cached else {}
    return {"teacher": {"dtype": stage.teacher_dtype, **kept}}


def taught_by(recipe: Recipe, folders: Folders) -> Path:
    """The checkpoint that students learn from: the teacher, corrected first where the recipe says so."""
    if recipe.correct_teacher is None:
        return Path(recipe.teacher)
    return folders["correct"] / TRAINED_FOLDER / CHECKPOINT_FOLDER


def teacher_origin(recipe: Recipe) -> dict[str, Any]:
    """What identifies the teacher."""
    return checkpoint_hashes(Path(recipe.teacher))


def packed_text(section: TrainSection, teacher: Path, path: Path, *, seed: int, ranks: Ranks) -> PackedSequences:
    """The packed text of one stage, in a file that the first process writes.

    Args:
        section: The stage.
        teacher: Whose tokens they are.
        path: The file.
        seed: Fixes the documents and their order.
        ranks: The processes, which all read it.
    """
    assert section.tokens is not None
    if ranks.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
    return shared_sequence_file(
        ranks,
        path,
        Blend(
            sources=text_sources(section.data),
            seq_len=section.seq_len,
            num_sequences=max(1, section.tokens // section.seq_len),
            seed=seed,
        ),
        load_tokenizer(teacher),
        made_from={"text": data_hashes(section.data), "tokenizer": tokenizer_hash(teacher)},
    )


def load_trained(checkpoint: Checkpoint, section: TrainSection, ranks: Ranks, *, device: str) -> PreTrainedModel:
    """A model that is going to be trained; one that will be sharded is loaded on CPU."""
    place = _loading_device(ranks, device, sharded=section.sharding == "fsdp2")
    return load_model(checkpoint.folder, device=place, dtype=torch_dtype(section.weights_dtype))


def write_trained(
    model: PreTrainedModel, record: DistillRecord, template: Checkpoint, folder: Path, ranks: Ranks
) -> None:
    """Writes a trained model and its record, whole or not at all; a sharded one is gathered. All processes call it."""
    state = full_state(model)
    if ranks.is_main:
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        save_model(state, template, partial / CHECKPOINT_FOLDER)
        write_record(record, partial / RECORD_FILE)
        partial.rename(folder)
    ranks.barrier()


def write_record(record: DistillRecord, path: Path, **said: Any) -> None:
    """Writes what a training did."""
    write_json(path, {"curve": record.curve, "tokens": record.tokens, "seconds": record.seconds, **said})


def read_record(path: Path) -> DistillRecord:
    """What a training did."""
    found = json.loads(path.read_text())
    curve = tuple((int(tokens), float(loss)) for tokens, loss in found["curve"])
    return DistillRecord(curve=curve, tokens=found["tokens"], seconds=found["seconds"])


def online_teacher(folder: Path, section: DistillSection, ranks: Ranks, *, device: str, sharded: bool) -> Teacher:
    """A teacher in memory, in shards or whole in each process."""
    place = _loading_device(ranks, device, sharded=sharded)
    model = load_model(folder, device=place, dtype=torch_dtype(section.teacher.dtype))
    return OnlineTeacher(model, sharded=sharded, device=ranks.device)


def layerwise_teacher(
    folder: Path, section: DistillSection, sequences_NT: PackedSequences, ranks: Ranks, *, device: str
) -> Teacher:
    """A teacher of which one block is in memory at a time."""
    stack = LayerwiseStack(open_checkpoint(folder), device=rank_device(ranks, device))
    return LayerwiseTeacher(stack, sequences_NT, window_sequences=section.teacher.window_sequences)


def rank_device(ranks: Ranks, device: str) -> str:
    """Where a process computes: on the device that was asked for, or on its own of several."""
    return device if ranks.world_size == 1 else str(ranks.device)


def _loading_device(ranks: Ranks, device: str, *, sharded: bool) -> str:
    # Shards move to their devices a block at a time, so that none ever holds the whole model.
    return "cpu" if sharded else rank_device(ranks, device)
