from pathlib import Path

import pytest
import yaml

from minitron.recipe import RecipeError, load_recipe

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "examples").rglob("*.yaml"))
MINIMAL = {
    "version": 1,
    "name": "tiny",
    "teacher": "teacher",
    "score": {"data": [{"path": "text.txt"}]},
    "budget": {"memory_gib": 1.0, "context_tokens": 64},
    "search": {},
    "distill": {"data": [{"path": "text.txt"}], "tokens": 100},
    "evaluate": {"data": [{"path": "heldout.txt"}]},
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | changes))
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_validates(path: Path) -> None:
    assert load_recipe(path).version == 1


def test_there_are_shipped_recipes() -> None:
    assert RECIPES


def test_paths_are_taken_from_the_recipes_folder(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    assert recipe.teacher == str(tmp_path / "teacher")
    assert recipe.distill.data[0].path == str(tmp_path / "text.txt")


def test_every_fault_is_reported_at_once_with_a_near_match(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        distill={"data": [{"path": "text.txt"}], "tokens": 0, "learning_rat": 1e-3},
        budgets={},
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert f"{path}: unknown key distill.learning_rat; did you mean learning_rate?" in lines
    assert f"{path}: unknown key budgets; did you mean budget?" in lines
    assert any("distill.tokens" in line and "greater than or equal to 1, got 0" in line for line in lines)


def test_a_misspelt_key_inside_a_list_finds_its_near_match(tmp_path: Path) -> None:
    path = write(tmp_path, score={"data": [{"path": "text.txt", "wieght": 2}]})
    with pytest.raises(RecipeError, match=r"unknown key score\.data\.0\.wieght; did you mean weight\?"):
        load_recipe(path)


@pytest.mark.parametrize("budget", [{"context_tokens": 64}, {"context_tokens": 64, "gpu": "a10g", "memory_gib": 1.0}])
def test_a_budget_names_its_memory_exactly_once(tmp_path: Path, budget: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="exactly one of gpu, memory_gib and memory_bytes must be given"):
        load_recipe(write(tmp_path, budget=budget))


def test_an_override_reaches_into_sections(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path), ("distill.tokens=777", "seed=3", "search.hidden_size=[4, 8]"))
    assert (recipe.distill.tokens, recipe.seed, recipe.search.hidden_size) == (777, 3, (4, 8))


@pytest.mark.parametrize("text", ["", "- a\n", "a: [1\n"])
def test_a_file_that_is_no_recipe_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match="a recipe must be") as caught:
        load_recipe(tmp_path / "recipe.yaml")
    assert "\n" not in str(caught.value)


def test_the_published_budget_follows_from_the_recipe(tmp_path: Path) -> None:
    budget = {"gpu": "a10g", "reserved_gib": 1.3, "context_tokens": 131072}
    recipe = load_recipe(write(tmp_path, budget=budget))
    assert recipe.budget.budget_bytes / 2**30 == pytest.approx(19.657, abs=5e-4)


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("search.hidden_size={mni: 3}", "unknown key search.hidden_size.mni; did you mean min?"),
        ("search.hidden_size=5", "search.hidden_size: input should be a valid"),
        ("search.hidden_size={max: 3}", "search.hidden_size.min must be given"),
        ("search.tournament={tokens: [2, 1]}", "tournament tokens must ascend"),
        ("search.choose=tournament", "set search.tournament.tokens"),
        ("budget.throughput={bandwidth_gb_s: 5}", "either gpu, or both of bandwidth_gb_s and bf16_tflops"),
        ("budget.min_tokens_per_s=5", "min_tokens_per_s needs a gpu"),
        ("budget.reserved_gib=.inf", "budget.reserved_gib"),
    ],
)
def test_a_fault_of_the_search_is_named_where_it_is(recipe_path: Path, override: str, fault: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe_path, (override,))
    lines = str(caught.value).splitlines()
    assert any(fault in line for line in lines)
    assert all("SizeRange" not in line and "constrained" not in line for line in lines)
