"""The evaluate stage: which models it loads and runs, what it measures them against, and what it leaves behind."""

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.distributed import Ranks
from minitron.evaluate import teacher_states
from minitron.evaluate.perplexity import evaluate_text
from minitron.evaluate.speed.wave import Wave
from minitron.pipeline import evaluation
from minitron.pipeline.context import StageContext
from minitron.pipeline.evaluating import loaded
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.stages import evaluate
from minitron.recipe.load import load_recipe
from minitron.recipe.recipe import Recipe
from minitron.runtime.loading import load_model, load_tokenizer
from tests.support.models import make_tiny_shape, write_tiny_checkpoint


def make_context(tmp_path: Path, recipe: Recipe) -> StageContext:
    run = RunFolder(tmp_path / "run")
    write_tiny_checkpoint(run.pruned, shape=make_tiny_shape(intermediate_size=29))
    write_tiny_checkpoint(run.student, shape=make_tiny_shape(intermediate_size=31))
    output = run.stage("evaluate")
    output.mkdir(parents=True)
    return StageContext(recipe=recipe, ranks=Ranks(), run=run, output=output)


def test_the_teacher_is_loaded_and_run_once_and_two_models_at_most_are_held(
    recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(recipe_path, ("evaluate.task=null",))
    context = make_context(tmp_path, recipe)
    folders = [Path(recipe.teacher), context.run.pruned, context.run.student]
    seen: list[Path] = []
    alive: list[weakref.ref[PreTrainedModel]] = []
    most, runs = 0, {"teacher": 0, "student": 0}
    plain = teacher_states.last_hidden_states

    def load(folder: Path, **options: Any) -> PreTrainedModel:
        nonlocal most
        model = load_model(folder, **options)
        seen.append(folder)
        alive.append(weakref.ref(model))
        most = max(most, sum(one() is not None for one in alive))
        return model

    def run(model: PreTrainedModel, ids_BT: Any) -> Any:
        runs["teacher" if model is alive[0]() else "student"] += 1
        return plain(model, ids_BT)

    wave = Wave(first_s=(0.5, 0.5), last_s=(1.0, 1.0), output_tokens=4)
    monkeypatch.setattr(evaluation, "run_wave", lambda *_given: wave)
    monkeypatch.setattr(loaded, "load_model", load)
    monkeypatch.setattr(teacher_states, "last_hidden_states", run)
    compared: list[tuple[Path, Path]] = []
    monkeypatch.setattr(evaluate, "require_one_vocabulary", lambda *given: compared.append(given))
    evaluate.run(context)
    monkeypatch.undo()
    assert seen == folders
    assert most == 2
    assert runs == {"teacher": 1, "student": 2}
    assert compared == [(folders[0], folder) for folder in folders]
    found = context.run.read_metrics()
    assert list(found) == ["teacher", "pruned", "distilled"]
    text = evaluation.held_out_text(recipe.evaluate, load_tokenizer(folders[0]), seed=recipe.seed)
    teacher = load_model(folders[0])
    for name, folder in zip(found, folders, strict=True):
        expected = evaluate_text(load_model(folder), text, teacher=teacher)
        assert (found[name].loss, found[name].kl_to_teacher) == (expected.loss, expected.kl_to_teacher)
        assert found[name].params == open_checkpoint(folder).params


def test_block_by_block_the_metrics_are_those_of_whole_models_without_what_these_generate(
    recipe_path: Path, tmp_path: Path
) -> None:
    overrides = ("evaluate.task=null", "evaluate.speed=null")
    context = make_context(tmp_path, load_recipe(recipe_path, overrides))
    evaluate.run(context)
    whole = context.run.read_metrics()
    context = replace(context, recipe=load_recipe(recipe_path, (*overrides, "evaluate.layerwise=true")))
    evaluate.run(context)
    found = context.run.read_metrics()
    assert [path.name for path in context.output.iterdir()] == ["metrics.json"]
    assert found["teacher"].kl_to_teacher == whole["teacher"].kl_to_teacher == 0.0
    for name in ("teacher", "pruned", "distilled"):
        assert found[name].speed is whole[name].speed is None
        assert found[name].memory == whole[name].memory
        assert found[name].loss == pytest.approx(whole[name].loss, rel=2e-6)
        assert found[name].bits_per_byte == pytest.approx(whole[name].bits_per_byte, rel=2e-6)
        assert found[name].kl_to_teacher == pytest.approx(whole[name].kl_to_teacher, rel=2e-6)
