"""The search stage: candidates measured without anything written, a tournament that survives being stopped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minitron.artifacts.header import STATE_FOLDER
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.cli.main import main
from minitron.distill.training.stage import TrainingRun
from minitron.distill.training.trainer import DivergedError
from minitron.evaluate.perplexity import evaluate_text
from minitron.importance.scores import load_scores
from minitron.importance.selection import select_units
from minitron.models.shape import HybridShape
from minitron.pipeline.candidates import tournament as played
from minitron.pipeline.candidates.bench import Bench
from minitron.pipeline.candidates.text import read_text
from minitron.pipeline.run_folder import CANDIDATES_FILE, CHECKPOINT_FOLDER, SCORES_FILE, RunFolder
from minitron.pipeline.runner import run_pipeline
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.plan import PrunePlan
from minitron.recipe.load import load_recipe
from minitron.report.tables import candidates_table
from minitron.runtime.loading import load_model
from tests.pipeline.conftest import WholeRun

Begun = Callable[[str, str], Path]

TOURNAMENT = (
    "search.choose=tournament",
    "search.shortlist=5",
    "search.tournament={tokens: [64, 128, 192], sequences: 3}",
    "distill.save_steps=1",
)


def found_by(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "search" / CANDIDATES_FILE).read_text())
    return found


def search(recipe_path: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    recipe = load_recipe(recipe_path, overrides)
    for _ in run_pipeline(recipe, folder, last="search"):
        pass
    return found_by(folder)


@pytest.fixture(scope="module")
def tournament(whole_run: WholeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a tournament, never interrupted."""
    folder = whole_run.copy_to(tmp_path_factory.mktemp("tournament") / "run", last="score")
    search(whole_run.recipe_path, folder, *TOURNAMENT)
    return folder


def test_zero_shot_measures_what_pruning_on_disk_gives_and_writes_no_checkpoint(
    tmp_path: Path, recipe_path: Path, begun: Begun
) -> None:
    found = search(recipe_path, begun("run", "score"), "search.choose=zero_shot", "search.shortlist=4")
    kls = [candidate["zero_shot"]["kl"] for candidate in found["candidates"]]
    assert len(kls) == 4
    assert kls == sorted(kls)
    assert kls[0] < kls[-1]
    assert not list((tmp_path / "run").rglob("model*.safetensors"))
    recipe = load_recipe(recipe_path)
    source = open_checkpoint(Path(recipe.teacher))
    scores = load_scores(tmp_path / "run" / "score" / SCORES_FILE)
    bench = Bench(recipe, source, scores, read_text(recipe, source, tmp_path))
    for number, candidate in enumerate(found["candidates"]):
        shape, layers = HybridShape(**candidate["shape"]), tuple(candidate["layers"])
        plan = PrunePlan(source=source.shape, target=shape, keep=select_units(scores, source.shape, shape, layers))
        student = load_model(prune_checkpoint(source, plan, tmp_path / str(number)).folder)
        on_disk = evaluate_text(student, bench.text.held_out_NT, teacher=bench.teacher)
        assert candidate["zero_shot"]["kl"] == pytest.approx(on_disk.kl_to_teacher, rel=1e-6)
        assert candidate["zero_shot"]["loss"] == pytest.approx(on_disk.loss, rel=1e-6)


def test_a_tournament_keeps_every_candidates_curve_and_sends_half_on(tournament: Path) -> None:
    found = found_by(tournament)
    rounds = [[each["tokens"] for each in candidate["rounds"]] for candidate in found["candidates"]]
    assert rounds == [[64, 128, 192], [64, 128, 192], [64, 128], [64], [64]]
    last = [candidate["rounds"][-1]["kl"] for candidate in found["candidates"]]
    assert last[0] <= last[1]
    for candidate in found["candidates"]:
        assert [tokens for tokens, _ in candidate["curve"]] == list(
            range(32, candidate["rounds"][-1]["tokens"] + 1, 32)
        )
        assert candidate["memory"]["total_bytes"] <= found["budget_bytes"]
    costs = [(each["memory"]["total_bytes"], each["rounds"][0]["kl"]) for each in found["candidates"]]
    for (size, kl), candidate in zip(costs, found["candidates"], strict=True):
        beaten = any(s <= size and k <= kl and (s, k) != (size, kl) for s, k in costs)
        assert candidate["on_front"] == (not beaten)
    assert not (tournament / "search" / STATE_FOLDER).exists()
    with Image.open(tournament / "search" / "candidates.png") as picture:
        assert min(picture.size) > 300


def test_the_first_candidate_is_the_one_that_is_pruned(
    tmp_path: Path, recipe_path: Path, tournament: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tournament, tmp_path / "run")
    options = [option for override in TOURNAMENT for option in ("--set", override)]
    assert main(["run", str(recipe_path), "--output", str(tmp_path / "run"), "--to", "prune", *options]) == 0
    assert "KL at" in capsys.readouterr().out
    first = found_by(tmp_path / "run")["candidates"][0]
    pruned = open_checkpoint(tmp_path / "run" / "prune" / CHECKPOINT_FOLDER)
    assert pruned.shape == HybridShape(**first["shape"])


@pytest.mark.parametrize("stop_at", [0, 6])
def test_a_stopped_tournament_goes_on_and_ends_the_same(
    recipe_path: Path, tournament: Path, begun: Begun, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    expected, folder = found_by(tournament), begun("stopped", "score")
    played = []
    real = Bench.held_out

    def stops(bench: Any, student: Any, ranks: Any = None) -> Any:
        # Measured right after the training of a round: its state is saved, its standing is not.
        if len(played) == 5 + stop_at:
            played.append("stop")
            raise KeyboardInterrupt
        played.append("go")
        return real(bench, student, ranks)

    monkeypatch.setattr(Bench, "held_out", stops)
    with pytest.raises(KeyboardInterrupt):
        search(recipe_path, folder, *TOURNAMENT)
    again = search(recipe_path, folder, *TOURNAMENT)
    assert json.dumps(again, sort_keys=True) == json.dumps(expected, sort_keys=True)


def test_the_shortlist_holds_the_published_choice_and_what_keeps_most(
    recipe_path: Path, tournament: Path, begun: Begun
) -> None:
    folder = begun("run", "score")
    largest = search(recipe_path, folder, "search.top_k=1")["candidates"][0]["shape"]
    keeping = search(recipe_path, folder, "search.top_k=1", "search.choose=importance")
    shapes = [each["shape"] for each in found_by(tournament)["candidates"]]
    assert largest in shapes
    assert len({json.dumps(shape) for shape in shapes}) == len(shapes) == 5
    assert keeping["candidates"][0]["shape"] in shapes


def test_a_changed_distillation_reruns_a_tournament_but_not_arithmetic(begun: Begun, recipe_path: Path) -> None:
    folder = begun("run", "score")
    small = ("search.choose=tournament", "search.shortlist=2", "search.tournament={tokens: [64], sequences: 1}")

    def reran(*overrides: str) -> bool:
        recipe = load_recipe(recipe_path, overrides)
        outcomes = {each.name: each for each in run_pipeline(recipe, folder, last="search")}
        return not outcomes["search"].skipped

    assert reran()
    assert not reran("distill.learning_rate=0.01")
    assert reran(*small)
    assert not reran(*small, "distill.tokens=512")
    assert reran(*small, "distill.learning_rate=0.01")


def test_ranges_limits_and_predictions_come_from_the_recipe(begun: Begun, recipe_path: Path) -> None:
    found = search(
        recipe_path,
        begun("run", "score"),
        "search.hidden_size={min: 14, step: 4}",
        "search.num_hidden_layers={min: 7}",
        "budget.max_params=30000",
        "budget.throughput={bandwidth_gb_s: 100, bf16_tflops: 50, input_tokens: 8, output_tokens: 8}",
    )
    assert found["num_shapes"] == 2 * 3 * 3  # 8 and 7 blocks; hidden 22, 20 and 16; heads
    assert found["device"] == "custom"
    for candidate in found["candidates"]:
        assert candidate["params"] <= 30000
        assert candidate["tokens_per_s"] > 0


def test_a_candidate_that_diverges_leaves_and_the_others_play_on(
    begun: Begun, recipe_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun("run", "score")
    real, calls = played.distill, []

    def diverges_first(*args: Any, **kwargs: Any) -> Any:
        (name,) = [each.state_folder.name for each in args if isinstance(each, TrainingRun)]
        calls.append(name)
        if name == "candidate-0":
            raise DivergedError("the distillation loss must stay finite")
        return real(*args, **kwargs)

    monkeypatch.setattr(played, "distill", diverges_first)
    found = search(recipe_path, folder, *TOURNAMENT)
    assert calls.count("candidate-0") == 1
    assert [each["rounds"][0]["kl"] is None for each in found["candidates"]] == [False] * 4 + [True]
    text = (folder / "search" / CANDIDATES_FILE).read_text()
    assert "Infinity" not in text
    assert candidates_table(RunFolder(folder).read_candidates()).row_count == 5


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (("search.choose=throughput",), "search.choose=throughput needs a gpu"),
        (("search.num_hidden_layers=[1]", "search.keep_attention=2"), "must stay under the quotas"),
        (("search.num_hidden_layers=null", "budget.memory_bytes=1000"), "the budget must hold at least one"),
        (("search.num_hidden_layers=[5]", "score.depth={scorer: logit_mse, remove: 1}"), "it leaves 7 of 8 and 5 are"),
        (
            ("search.choose=tournament", "search.tournament={tokens: [64, 65]}"),
            "every round of a tournament must",
        ),
        (
            ("budget.accounting=vllm", "budget.kv_dtype=int8"),
            "kv_dtype must be one of fp32, bf16, fp16, fp8, got 'int8'",
        ),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_scored(
    tmp_path: Path, recipe_path: Path, overrides: tuple[str, ...], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        search(recipe_path, tmp_path / "run", *overrides)
    assert not (tmp_path / "run").exists()
