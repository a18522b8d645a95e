"""Preflight validation: what a run refuses before its first stage."""

from pathlib import Path

import pytest
from transformers.training_args import OptimizerNames

from minitron.distill.optimizers import OPTIMIZER_NAMES
from minitron.errors import MinitronError
from minitron.pipeline.preflight import check_processes, check_recipe, missing_text
from minitron.recipe.load import load_recipe


def test_the_optimizers_are_those_of_trainer() -> None:
    assert {name.value for name in OptimizerNames} == set(OPTIMIZER_NAMES)


def test_a_recipe_that_can_be_followed_passes(recipe_path: Path) -> None:
    check_recipe(load_recipe(recipe_path))


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("distill.optim=adamx", "optim must be one of Trainer's, .*, got 'adamx'"),
        ("distill.teacher={mode: cached, top_k: 271}", "top_k must be below the vocabulary's 271, got 271"),
        ("search.choose=throughput", "search.choose=throughput needs a gpu"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(recipe_path: Path, override: str, fault: str) -> None:
    with pytest.raises(MinitronError, match=fault):
        check_recipe(load_recipe(recipe_path, (override,)))


def test_every_missing_text_is_named_the_tasks_too(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    names = ("text.txt", "heldout.txt", "problems.jsonl")
    for name in names:
        (recipe_path.parent / name).unlink()
    assert missing_text(recipe) == [str(recipe_path.parent / name) for name in names]
    with pytest.raises(MinitronError) as fault:
        check_recipe(recipe)
    assert all(name in str(fault.value) for name in names)


def test_a_search_that_no_reader_takes_a_shape_of_is_refused(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path, ("budget.readers=[llamacpp]", "search.num_hidden_layers=null"))
    with pytest.raises(MinitronError, match="refused by llamacpp, for which vocab_size must be a multiple") as caught:
        check_recipe(recipe)
    assert "mamba_num_heads" not in str(caught.value).partition("refused by")[2]  # a student says mamba_d_head


@pytest.mark.parametrize(
    ("overrides", "processes", "fault"),
    [
        (("search.processes=2",), 2, "search.processes must be 1 where a launcher starts several processes, 2 here"),
        ((), 5, "score.samples must be one for each of 5 processes, got 4"),
        ((), 4, "must share out batch_size=2 sequences equally, got 4 processes"),
        (("distill.context_parallel=2",), 3, "batch_size=2 sequences equally, 2 at each, got 3 processes"),
        (("correct_teacher={tokens: 48, seq_len: 16, batch_size: 3}",), 2, "batch_size=3 sequences equally, got 2"),
        (("distill.teacher.mode=layerwise",), 2, "a layerwise teacher takes one process"),
    ],
)
def test_a_launch_that_could_not_go_through_all_stages_is_refused_at_once(
    recipe_path: Path, overrides: tuple[str, ...], processes: int, fault: str
) -> None:
    recipe = load_recipe(recipe_path, overrides)
    with pytest.raises(MinitronError, match=fault):
        check_processes(recipe, processes)


def test_one_process_goes_through_whatever_a_recipe_asks_for(recipe_path: Path) -> None:
    check_processes(load_recipe(recipe_path, ("search.processes=2", "distill.teacher.mode=layerwise")), 1)
    check_processes(load_recipe(recipe_path, ("distill.context_parallel=2",)), 4)


def test_evaluation_that_would_read_nothing_is_refused_before_hours_of_training(recipe_path: Path) -> None:
    source = "data=[{path: text.txt, held_out: %s}]"
    sections = ("score", "distill", "evaluate")
    few, many = (tuple(f"{section}.{source % share}" for section in sections) for share in (1e-9, 0.5))
    with pytest.raises(
        MinitronError, match=r"text\.txt must have a document in the part .* none is with held_out=1e-09"
    ):
        check_recipe(load_recipe(recipe_path, few))
    check_recipe(load_recipe(recipe_path, many))
