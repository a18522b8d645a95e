"""Fingerprints of the stages: a stage runs again when its own, or that of a stage it reads, changes.

Text and weights count by their content, settings by their values. What changes speed or memory alone is left out.
"""

from collections.abc import Sequence
from pathlib import Path

from minitron.artifacts.hashes import file_hash
from minitron.artifacts.json_files import JsonObject
from minitron.checkpoints.checkpoint import checkpoint_hashes
from minitron.data.locations import locate
from minitron.distill.settings import SPEED_SETTINGS, WATCHING_SETTINGS
from minitron.pipeline.sections import (
    candidate_repair,
    correction_section,
    depth_first_section,
    prune_section,
    score_section,
    vocabulary_section,
)
from minitron.recipe.distill import DistillSection, TrainSection
from minitron.recipe.prune import PruneSection, VocabularySection
from minitron.recipe.recipe import Recipe
from minitron.recipe.score import ScoreSection
from minitron.recipe.source import Source

# Ways of choosing a candidate that rank by arithmetic, and what the solver ranks by.
RANK_BY = {"largest": "memory", "importance": "importance", "throughput": "throughput"}

# Settings of a budget that count where there are readers.
READER_SETTINGS = {"readers", "tensor_parallel"}
# Settings of a phase that a tournament has its own of; its teacher is the recipe's, online and in fp32.
TOURNAMENTS_OWN = frozenset({"tokens", "epochs", "weights_dtype", "keep", "validation"})


def data_hashes(sources: Sequence[Source]) -> list[JsonObject]:
    """Identity of each source of text: a file's content or a dataset's name, and how it is read."""
    return [_source(source) for source in sources]


def teacher(recipe: Recipe) -> JsonObject:
    """The teacher's weights and tokenizer."""
    return {**checkpoint_hashes(Path(recipe.teacher))}


def scores(checkpoint: Path, section: ScoreSection, *, seed: int) -> JsonObject:
    """Scores of a checkpoint."""
    speed: dict[str, bool | set[str]] = {
        "data": True,
        "batch_size": True,
        "layerwise": True,
        "save_every": True,
        "depth": {"trials_at_once", "batches_at_once"},
    }
    return {
        **checkpoint_hashes(checkpoint),
        "data": [*data_hashes(section.data)],
        "settings": section.model_dump(mode="json", exclude=speed),
        "seed": seed,
    }


def vocabulary(recipe: Recipe) -> JsonObject:
    """The teacher with the tokens of a text."""
    section = vocabulary_section(recipe)
    assert section is not None
    return {**teacher(recipe), "vocabulary": kept_tokens(section)}


def kept_tokens(section: VocabularySection) -> JsonObject:
    """Which tokens are kept of a vocabulary, the tokenizer aside."""
    return {**section.model_dump(mode="json", exclude={"data"}), "data": [*data_hashes(section.data)]}


def correct(recipe: Recipe) -> JsonObject:
    """The corrected teacher."""
    return {**teacher(recipe), "correct": _correction(recipe)}


def depth(recipe: Recipe) -> JsonObject:
    """The checkpoint with fewer blocks."""
    found = scores(Path(recipe.teacher), recipe.score, seed=recipe.seed)
    settings = found["settings"]
    assert isinstance(settings, dict)
    # Width scorers do not rank blocks; another choice of them must not cut and distill the blocks anew.
    by_depth: JsonObject = {**found, "settings": {key: value for key, value in settings.items() if key != "width"}}
    return {
        "score": by_depth,
        "num_hidden_layers": depth_first_section(recipe).num_hidden_layers,
        "keep_attention": recipe.search.keep_attention,
        **prune(recipe),
    }


def depth_distill(recipe: Recipe) -> JsonObject:
    """The recovery of the checkpoint with fewer blocks."""
    return {"distill": training(depth_first_section(recipe).distill), "corrected": _correction(recipe)}


def score(recipe: Recipe) -> JsonObject:
    """The scores."""
    return scores(Path(recipe.teacher), score_section(recipe), seed=recipe.seed)


def search(recipe: Recipe) -> JsonObject:
    """The candidates, with what those depend on that are measured."""
    measured = recipe.search.choose not in RANK_BY
    unused = {"top_k"} if measured else {"shortlist", "tournament"}
    settings: JsonObject = {
        # A budget that names no readers keeps the hash that it had before it could.
        "budget": recipe.budget.model_dump(mode="json", exclude=None if recipe.budget.readers else READER_SETTINGS),
        "search": recipe.search.model_dump(mode="json", exclude=unused | {"processes"}),
    }
    if measured:
        settings["distill"] = _measured(recipe)
    return settings


def forecast(recipe: Recipe, cuts: Sequence[JsonObject]) -> JsonObject:
    """Cuts that are measured for a forecast, as `search.choose` says; held-out text lies behind a tournament's."""
    held_out = recipe.search.tournament.model_dump(mode="json", exclude={"keep"})
    return {"cuts": [*cuts], "held_out": held_out, "distill": _measured(recipe)}


def prune(recipe: Recipe) -> JsonObject:
    """The pruned checkpoint."""
    return pruning(prune_section(recipe))


def pruning(section: PruneSection) -> JsonObject:
    """A pruned checkpoint, the shape and the scores aside.

    A repair's batch size counts, since its weights are compared bit for bit; one without epochs has no rate, and keeps
    the hash that it had before there were any.
    """
    on_text = ("compensate", "block_widths", "repair")
    found = {name: getattr(section, name) for name in on_text}
    text: JsonObject = {f"{name}_data": [*data_hashes(each.data)] for name, each in found.items() if each is not None}
    without_text: dict[str, bool | set[str]] = {**{name: {"data"} for name in on_text}, "vocabulary": True}
    if section.repair is not None and not section.repair.epochs:
        without_text["repair"] = {"data", "epochs", "rate"}
    cut: JsonObject = {} if section.vocabulary is None else {"vocabulary": kept_tokens(section.vocabulary)}
    return {**section.model_dump(mode="json", exclude=without_text), **text, **cut}


def cache(recipe: Recipe) -> JsonObject:
    """The teacher's caches: teacher, each phase's text and what is kept of its logits; nothing of the student."""
    return {
        "teacher": teacher(recipe),
        "corrected": _correction(recipe),
        "phases": [cached_phase(phase) for phase in recipe.distill.curriculum],
    }


def cached_phase(phase: DistillSection) -> JsonObject:
    """The cache of one phase, the teacher aside."""
    return {
        "data": [*data_hashes(phase.data)],
        "tokens": phase.tokens,
        "seq_len": phase.seq_len,
        "temperature": phase.loss.temperature,
        "top_k": phase.teacher.top_k,
        "drawn_tokens": phase.drawn_tokens,
        "dtype": phase.teacher_dtype,
        "validation": phase.validation.model_dump(mode="json", exclude={"every_steps"}),
    }


def distill(recipe: Recipe) -> JsonObject:
    """The distilled student."""
    return training(recipe.distill)


def evaluate(recipe: Recipe) -> JsonObject:
    """The metrics."""
    task = recipe.evaluate.task
    return {
        "evaluate": recipe.evaluate.counted_on(recipe.device),
        "device": recipe.device,
        "data": [*data_hashes(recipe.evaluate.data)],
        "task": None if task is None else file_hash(Path(task.path)),
    }


def report(recipe: Recipe) -> JsonObject:
    """The report."""
    return {"name": recipe.name}


def training(section: TrainSection) -> JsonObject:
    """Settings and text that a training's result depends on, phase by phase."""
    if not isinstance(section, DistillSection):
        return {"phases": [_trained(section)]}
    # A recipe without smaller students keeps the hash that it had before it could have some.
    students = [student.model_dump(mode="json") for student in section.students]
    found: JsonObject = {"phases": [_trained(phase) for phase in section.curriculum], "merge": list(section.merge)}
    return {**found, "students": [*students]} if students else found


def _trained(phase: TrainSection, *, besides: frozenset[str] = frozenset()) -> JsonObject:
    left_out = {*SPEED_SETTINGS, *WATCHING_SETTINGS, *besides, "data", "phases", "merge", "students", "teacher"}
    found: JsonObject = {**phase.model_dump(mode="json", exclude=left_out), "data": [*data_hashes(phase.data)]}
    if isinstance(phase, DistillSection):
        cached = phase.teacher.mode == "cached"
        kept: JsonObject = {"top_k": phase.teacher.top_k, "drawn_tokens": phase.drawn_tokens} if cached else {}
        found["teacher"] = {"dtype": phase.teacher_dtype, **kept}
    return found


def _measured(recipe: Recipe) -> JsonObject:
    """What candidates are measured by: the text of the first phase, which a tournament is over within."""
    first = recipe.distill.curriculum[0]
    cut = _measured_cut(recipe)
    if recipe.search.choose != "tournament":
        return {"data": [*data_hashes(first.data)], "seq_len": first.seq_len, **cut}
    found = _trained(first, besides=TOURNAMENTS_OWN)
    loss = first.loss.model_copy(update={"hidden": None}).model_dump(mode="json")
    return {key: value for key, value in found.items() if key != "teacher"} | {"loss": loss, **cut}


def _measured_cut(recipe: Recipe) -> JsonObject:
    """How candidates are compensated and repaired before they are measured; nothing where they are merely sliced."""
    section = prune_section(recipe).model_copy(update={"repair": candidate_repair(recipe)})
    if section.compensate is None and section.repair is None:
        return {}
    return {"prune": {key: value for key, value in pruning(section).items() if key not in ("shard_gib", "drop_mtp")}}


def _correction(recipe: Recipe) -> JsonObject | None:
    section = correction_section(recipe)
    return None if section is None else training(section)


# Settings of a source that came later: where they are left out, text keeps the hashes that it had before.
LATER_SETTINGS = {"held_out", "kind", "loss", "chat_template"}


def _source(source: Source) -> JsonObject:
    left_out = {name for name in LATER_SETTINGS if not getattr(source, name)}
    found: JsonObject = source.model_dump(mode="json", exclude=left_out)
    if source.chat_template is not None:
        found["chat_template"] = file_hash(Path(source.chat_template))
    location = locate(source.path)
    if location.on_hub:
        return found
    contents = [file_hash(path) for path in location.contents]
    return {key: value for key, value in found.items() if key != "path"} | {
        "content": contents[0] if len(contents) == 1 else [*contents]
    }
