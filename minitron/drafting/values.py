"""A first recipe's sections as values, from a teacher's shape, wishes, sizes to search and a way to train."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from minitron.drafting.setups import Setup
from minitron.drafting.wishes import Wishes
from minitron.models.shape import HybridShape

Values = dict[str, object]

HELD_OUT = 0.05
# Stages that can hold a block at a time.
LAYERWISE = ("score", "prune", "evaluate")
# Parameters from which a student is trained on -> (sequences of one optimizer step, tokens of each, samples scored).
SCALES = {500_000_000: (64, 4096, 1024), 20_000_000: (16, 512, 256), 0: (8, 256, 128)}
LEAST_TOKENS = 500_000
MICRO_BATCHED = 500_000_000  # parameters from which one sequence fills a device


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """What is drafted for.

    Attributes:
        name: Name of the run.
        path: What the recipe calls it.
        shape: Its shape.
        longest: Tokens of the longest context that its configuration allows; None where it does not say.
        readers: Engines that take it, and so must take the student.
    """

    name: str
    path: str
    shape: HybridShape
    longest: int | None
    readers: tuple[str, ...]


def recipe_values(
    teacher: Teacher,
    wishes: Wishes,
    search: Mapping[str, list[int]],
    setup: Setup,
    student_params: int,
    layerwise: Collection[str] = (),
) -> Values:
    """Every section of a recipe.

    Args:
        teacher: What is cut.
        wishes: What is asked for.
        search: Axis -> sizes to try.
        setup: How the student is trained.
        student_params: Parameters of the largest student that fits, which tokens and batches go by.
        layerwise: Sections of score, prune and evaluate whose models are held a block at a time.
    """
    batch, length, samples = next(scale for least, scale in SCALES.items() if student_params >= least)
    length = min(length, teacher.longest or length)
    blockwise = {name: {"layerwise": True} if name in layerwise else {} for name in LAYERWISE}
    text = _sources(wishes.data, 0.0 if wishes.heldout else HELD_OUT)
    values: Values = {"version": 1, "name": teacher.name, "teacher": teacher.path}
    if setup.gpus:
        values |= {"device": "auto", "devices": {"gpu": wishes.train_gpu, "nodes": 1, "gpus_per_node": setup.gpus}}
    return values | {
        "score": {"data": text, "samples": samples, "seq_len": length, **blockwise["score"]},
        "budget": _budget(teacher, wishes),
        "search": {**search, **_quota(teacher.shape), "choose": "importance", "top_k": 3},
        "prune": {"repair": {"samples": 128, **blockwise["prune"]}},
        "distill": {
            "data": text,
            "tokens": wishes.tokens or default_tokens(student_params),
            "seq_len": length,
            "batch_size": batch,
            **({"micro_batch_size": 1} if student_params >= MICRO_BATCHED else {}),
            "learning_rate": "auto",
            **_training(setup, teacher.shape),
        },
        "evaluate": {
            "data": _sources(wishes.heldout, 0.0) or text,
            "seq_len": length,
            **blockwise["evaluate"],
            "speed": None,
        },
    }


def default_tokens(params: int) -> int:
    """A twentieth of a student's parameters to one digit, at least half a million.

    >>> default_tokens(8_900_000_000), default_tokens(3_000_000)
    (400000000, 500000)
    """
    tokens = max(LEAST_TOKENS, params / 20)
    unit = int(10 ** math.floor(math.log10(tokens)))
    return round(tokens / unit) * unit


def _sources(paths: tuple[str, ...], held_out: float) -> list[Values]:
    split = {"held_out": held_out} if held_out else {}
    return [{"path": path, **split} for path in paths]


def _budget(teacher: Teacher, wishes: Wishes) -> Values:
    memory = {"gpu": wishes.gpu} if wishes.memory_gib is None else {"memory_gib": wishes.memory_gib}
    asked = {"sequences": wishes.sequences, "weights_dtype": wishes.weights_dtype, "max_params": wishes.max_params}
    defaults = {"sequences": 1, "weights_dtype": "bf16", "max_params": None}
    return {
        **memory,
        "context_tokens": wishes.context_tokens,
        **{name: value for name, value in asked.items() if value != defaults[name]},
        **({"readers": list(teacher.readers)} if teacher.readers else {}),
    }


def _quota(teacher: HybridShape) -> Values:
    """Attention blocks that stay where only some blocks have attention: two thirds, as 4 of 6 in arXiv 2508.14444."""
    attending = teacher.family.num_keeping("kv", teacher.counts)
    if not 0 < attending < teacher.num_hidden_layers:
        return {}
    return {"keep_attention": math.ceil(attending * 2 / 3)}


def _training(setup: Setup, teacher: HybridShape) -> Values:
    settings = dict(setup.settings)
    cache = settings.get("teacher")
    if isinstance(cache, Mapping) and "top_k" in cache:
        settings["teacher"] = {**cache, "top_k": min(64, teacher.vocab_size // 2)}
    return settings
