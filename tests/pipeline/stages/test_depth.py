"""The published two steps: blocks first, distilled away, then the widths."""

from pathlib import Path
from typing import Any

import pytest

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.cli.main import main
from minitron.errors import RecipeError
from minitron.importance.scores import load_scores
from minitron.pipeline.run_folder import SCORES_FILE, RunFolder
from minitron.pipeline.runner import run_pipeline
from minitron.recipe.load import load_recipe
from minitron.recipe.space import search_space
from minitron.search.solver import solve_budget
from tests.pipeline.conftest import WholeRun
from tests.support.paths import ROOT
from tests.support.published import NANO_9B, NANO_12B
from tests.support.recipes import TWO_STEPS


def run(recipe_path: Path, folder: Path, *overrides: str, **options: Any) -> dict[str, bool]:
    recipe = load_recipe(recipe_path, (*TWO_STEPS, *overrides))
    return {outcome.name: outcome.skipped for outcome in run_pipeline(recipe, folder, **options)}


def test_blocks_go_first_and_widths_are_cut_from_what_was_distilled(two_steps: WholeRun) -> None:
    folder = two_steps.folder
    assert list(two_steps.skipped) == [
        "depth",
        "depth_distill",
        "score",
        "search",
        "prune",
        "distill",
        "evaluate",
        "report",
    ]
    teacher, first = (
        open_checkpoint(two_steps.recipe_path.parent / "teacher"),
        open_checkpoint(folder / "depth_distill" / "checkpoint"),
    )
    greedy = load_scores(folder / "depth" / "score" / SCORES_FILE)
    kept = [layer for layer in range(8) if layer not in greedy.removed]
    assert first.shape == teacher.shape.resized(layers=kept)
    assert first.shape.count("*") == 1
    student = open_checkpoint(folder / "distill" / "checkpoint").shape
    assert student.hybrid_override_pattern == first.shape.hybrid_override_pattern
    assert student.params < first.shape.params
    # The second step's scores are of the first step's checkpoint, and rank no blocks by logits again.
    scores = load_scores(folder / "score" / SCORES_FILE)
    assert len(scores.depth) == 6
    assert scores.removed == ()
    assert RunFolder(folder).read_metrics()["teacher"].params == teacher.params


def test_a_second_run_skips_the_first_step_and_a_change_of_it_reruns_all(
    tmp_path: Path, recipe_path: Path, two_steps: WholeRun
) -> None:
    folder = two_steps.copy_to(tmp_path / "run", last="prune")
    assert set(run(recipe_path, folder, last="prune").values()) == {True}
    assert run(recipe_path, folder, "search.top_k=1", last="prune") == {
        "depth": True,
        "depth_distill": True,
        "score": True,
        "search": False,
        "prune": False,
    }
    # Another way of distilling leaves the cut blocks as they are.
    again = run(recipe_path, folder, "depth_first.distill.learning_rate=0.01", last="prune")
    assert [name for name, skipped in again.items() if skipped] == ["depth"]


def test_an_interrupted_first_step_keeps_its_scores(
    tmp_path: Path, recipe_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minitron.pipeline.stages import depth

    def stop(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(depth, "prune_to", stop)
        run(recipe_path, tmp_path / "run", last="depth")
    monkeypatch.setattr(depth, "score_folder", stop)
    assert run(recipe_path, tmp_path / "run", last="depth") == {"depth": False}


def test_a_tournament_in_the_second_step_judges_by_the_teacher(
    tmp_path: Path, recipe_path: Path, two_steps: WholeRun
) -> None:
    folder = two_steps.copy_to(tmp_path / "run", last="score")
    tournament = ("search.choose=tournament", "search.shortlist=2", "search.tournament={tokens: [64], sequences: 2}")
    run(recipe_path, folder, *tournament, last="search")
    found = RunFolder(folder).read_candidates()
    assert all((candidate.rounds[0].kl or 0) > 0 for candidate in found.candidates)
    assert all(len(candidate.layers) == 6 for candidate in found.candidates)


def test_cutting_blocks_twice_is_refused(recipe_path: Path) -> None:
    with pytest.raises(RecipeError, match="either depth_first or search.num_hidden_layers cuts blocks, not both"):
        load_recipe(recipe_path, (TWO_STEPS[1],))


def test_a_stage_that_a_recipe_lacks_is_not_known(recipe_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(recipe_path), "--from", "depth"]) == 2
    assert "a stage must be one of score, search" in capsys.readouterr().err


PUBLISHED = ROOT / "examples" / "recipes" / "nano-12b-to-9b.yaml"
GRID = (  # as a comment of the recipe has it
    "search.hidden_size=[4480,4800,5120]",
    "search.intermediate_ratio=[3,3.5,4]",
    "search.mamba_num_heads=[112,120,128]",
)


@pytest.mark.parametrize(
    ("overrides", "shapes", "found"),
    [((), 1, {(4480, 15680, 128)}), (GRID, 27, {(4480, 17920, 112), (4480, 15680, 128), (4800, 14400, 120)})],
)
def test_the_shipped_recipe_of_the_published_run_finds_the_published_shape_and_in_the_grid_the_three(
    overrides: tuple[str, ...], shapes: int, found: set[tuple[int, int, int]]
) -> None:
    recipe = load_recipe(PUBLISHED, overrides)
    assert recipe.depth_first is not None
    assert recipe.depth_first.num_hidden_layers == NANO_9B.num_hidden_layers
    removed = {7, 8, 20, 21, 48, 52}
    source = NANO_12B.resized(layers=[layer for layer in range(62) if layer not in removed])
    assert source.hybrid_override_pattern == NANO_9B.hybrid_override_pattern
    space = search_space(recipe.search, source, lambda kept: tuple(range(kept)))
    result = solve_budget(space, recipe.budget.workload, recipe.budget.limits, top_k=3)
    assert space.num_shapes == shapes
    assert {
        (each.shape.hidden_size, each.shape.intermediate_size, each.shape.mamba_num_heads) for each in result.candidates
    } == found
    assert [each.shape for each in result.candidates].count(NANO_9B) == 1
