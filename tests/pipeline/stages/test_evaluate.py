"""The evaluate stage: which models it loads, and what it measures them against."""

from pathlib import Path

import pytest

from minitron.distributed import Ranks
from minitron.estimate.serving.memory import memory_bytes
from minitron.evaluate.metrics import Metrics
from minitron.evaluate.speed.wave import Wave, summarize
from minitron.models.shape import HybridShape
from minitron.pipeline.context import StageContext
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.stages import evaluate
from minitron.recipe.load import load_recipe


def test_the_teacher_is_loaded_once_and_each_student_once(
    recipe_path: Path, tmp_path: Path, tiny_shape: HybridShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = load_recipe(recipe_path), RunFolder(tmp_path / "run")
    memory = memory_bytes(tiny_shape, recipe.budget.workload)
    wave = Wave(first_s=(0.5, 0.5), last_s=(1.0, 1.0), output_tokens=4)
    speed = summarize([wave], [wave])
    metrics = Metrics(params=1, memory=memory, loss=1.0, kl_to_teacher=0.5, speed=speed)
    loaded: list[Path] = []
    measured: list[tuple[object, object]] = []

    def load(folder: Path, **_options: object) -> Path:
        loaded.append(folder)
        return folder

    def measure(model: object, *_given: object, teacher: object, **_options: object) -> Metrics:
        measured.append((model, teacher))
        return metrics

    monkeypatch.setattr(evaluate, "load_model", load)
    monkeypatch.setattr(evaluate, "evaluate_model", measure)
    compared: list[tuple[Path, Path]] = []
    monkeypatch.setattr(evaluate, "require_one_vocabulary", lambda *folders: compared.append(folders))
    output = run.stage("evaluate")
    output.mkdir(parents=True)
    evaluate.run(StageContext(recipe=recipe, ranks=Ranks(), run=run, output=output))
    teacher = Path(recipe.teacher)
    assert loaded == [teacher, run.pruned, run.student]
    assert compared == [(teacher, folder) for folder in loaded]
    assert measured == [(model, teacher) for model in loaded]
    assert run.read_metrics() == dict.fromkeys(("teacher", "pruned", "distilled"), metrics)
