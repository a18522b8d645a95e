"""Converts training sections into what distillation takes: settings, packed text, models, and records of training."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import PreTrainedModel

from minitron.artifacts.json_files import read_record, write_json
from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint, tokenizer_hash
from minitron.data.masks import PackedSequences
from minitron.data.packing import shared_sequence_file
from minitron.data.sources import Blend
from minitron.data.token_ids import require_model_ids
from minitron.distill.loss.divergences import DIVERGENCES
from minitron.distill.loss.divergences.jsd import JSD
from minitron.distill.loss.objective import Objective
from minitron.distill.nested.students import TrainedStudent
from minitron.distill.settings import LossSettings
from minitron.distill.teachers.layerwise import LayerwiseTeacher
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.teachers.teacher import Teacher
from minitron.distill.training.model import HiddenMatch
from minitron.distill.training.record import DistillRecord
from minitron.distill.training.stage import DistillSettings
from minitron.distributed import Ranks
from minitron.models.config import read_config, shape_from_config
from minitron.pipeline.fingerprints import data_hashes
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, RECORD_FILE
from minitron.pipeline.text import split_text
from minitron.recipe.distill import DistillSection, TrainSection
from minitron.runtime.dtypes import torch_dtype
from minitron.runtime.loading import empty_model, load_model, load_tokenizer
from minitron.runtime.saving import save_model
from minitron.runtime.stack import LayerwiseStack


def objective_of(section: LossSettings) -> Objective:
    """The objective of a recipe's loss section."""
    return Objective(
        divergence=JSD(beta=section.beta) if section.divergence == "jsd" else DIVERGENCES[section.divergence](),
        temperature=section.temperature,
        cross_entropy=section.cross_entropy,
    )


def train_settings(
    section: TrainSection,
    objective: Objective,
    *,
    hidden: HiddenMatch | None = None,
    nested: tuple[TrainedStudent, ...] = (),
) -> DistillSettings:
    """A phase's settings as distillation takes them."""
    besides = {"objective": objective, "hidden": hidden, "nested": nested}
    return DistillSettings.model_validate({**section.training, **besides})


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseText:
    """Packed text of one phase.

    Attributes:
        sequences_NT: What is trained on.
        validation_NT: What the training is watched by.
    """

    sequences_NT: PackedSequences
    validation_NT: PackedSequences


def packed_text(section: TrainSection, teacher: Path, path: Path, *, seed: int, ranks: Ranks) -> PhaseText:
    """The packed text of one phase, what is trained on in a file that the first process writes.

    Args:
        section: The phase.
        teacher: Whose tokens they are.
        path: The file.
        seed: Fixes the documents and their order.
        ranks: The processes, which all read it.
    """
    assert section.tokens is not None
    if ranks.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(teacher)
    split = split_text(section, tokenizer, seed=seed, ranks=ranks)
    sequences_NT = shared_sequence_file(
        ranks,
        path,
        Blend(
            sources=split.sources,
            seq_len=section.seq_len,
            num_sequences=max(1, section.tokens // section.seq_len),
            seed=seed,
        ),
        tokenizer,
        made_from={
            "text": data_hashes(section.data),
            "tokenizer": tokenizer_hash(teacher),
            "validation": split.shares,
        },
    )
    vocab_size = shape_from_config(read_config(teacher)).vocab_size
    for found_NT in (sequences_NT, split.validation):
        require_model_ids(found_NT, tokenizer, vocab_size)
    return PhaseText(sequences_NT=sequences_NT, validation_NT=split.validation)


def validation_text(section: TrainSection, teacher: Path, *, seed: int, ranks: Ranks) -> PackedSequences:
    """What one phase is watched by, alone, where its training text is packed already."""
    return split_text(section, load_tokenizer(teacher), seed=seed, ranks=ranks).validation


def load_trained(checkpoint: Checkpoint, section: TrainSection, ranks: Ranks, *, device: str) -> PreTrainedModel:
    """Loads a model for training; one that will be sharded is on torch's meta device, and read once it is in shards."""
    dtype = torch_dtype(section.weights_dtype)
    if section.sharding == "fsdp2":
        return empty_model(checkpoint, dtype)
    return load_model(checkpoint.folder, device=_own_device(ranks, device), dtype=dtype)


def write_trained(
    model: PreTrainedModel, record: DistillRecord, template: Checkpoint, folder: Path, ranks: Ranks
) -> None:
    """Writes a trained model and its record, whole or not at all. All processes call it, the first one writes."""
    partial = folder.with_name(folder.name + ".partial")
    if ranks.is_main:
        shutil.rmtree(partial, ignore_errors=True)
    save_model(model.state_dict(), template, partial / CHECKPOINT_FOLDER, ranks)
    ranks.barrier()  # behind this all have opened what is moved now
    if ranks.is_main:
        write_training_record(record, partial / RECORD_FILE)
        partial.rename(folder)
    ranks.barrier()


def write_training_record(record: DistillRecord, path: Path, **more: object) -> None:
    """Writes what a training did."""
    write_json(path, {**asdict(record), **more})


def read_training_record(path: Path) -> DistillRecord:
    """What a training did; of one that an older version wrote, its loss curve, tokens and seconds."""
    return read_record(path, DistillRecord)


def online_teacher(folder: Path, section: DistillSection, ranks: Ranks, *, device: str, sharded: bool) -> Teacher:
    """A teacher in memory, in shards or whole in each process."""
    dtype = torch_dtype(section.teacher.dtype)
    if sharded:
        weights = open_checkpoint(folder)
        return OnlineTeacher(empty_model(weights, dtype), sharded=True, device=ranks.device, weights=weights)
    return OnlineTeacher(load_model(folder, device=_own_device(ranks, device), dtype=dtype), device=ranks.device)


def layerwise_teacher(
    folder: Path, section: DistillSection, sequences_NT: PackedSequences, *, device: str
) -> LayerwiseTeacher:
    """A teacher of which one block is in memory at a time."""
    stack = LayerwiseStack(open_checkpoint(folder), device=device)
    return LayerwiseTeacher(stack, sequences_NT, window_sequences=section.teacher.window_sequences)


def _own_device(ranks: Ranks, device: str) -> str:
    return device if ranks.world_size == 1 else str(ranks.device)
