import re
from pathlib import Path

import pytest
import yaml

from minitron.errors import RecipeError
from minitron.recipe.load import load_recipe
from tests.support.paths import ROOT

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


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "/a", "-a", "a b"])
def test_a_name_that_is_no_folder_in_runs_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="name: must name a folder in runs/"):
        load_recipe(write(tmp_path, name=name))


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


SPLIT = {"path": "text.txt", "held_out": 0.1}


def test_text_that_is_trained_and_evaluated_on_is_refused_naming_both_places(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        prune={"repair": {"data": [{"path": "text.txt"}]}},
        depth_first={"num_hidden_layers": 3, "distill": {"data": [{"path": "other.txt"}, SPLIT], "tokens": 9}},
        evaluate={"data": [{"path": "other.jsonl"}, {"path": "./sub/../text.txt"}]},
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    lines = str(caught.value).splitlines()
    trained = ("score.data.0", "depth_first.distill.data.1", "prune.repair.data.0", "distill.data.0")
    assert len(lines) == len(trained)
    for line, place in zip(lines, trained, strict=True):
        assert line.startswith(f"{path}: evaluate.data.1 must not read the text that {place} reads")
    assert "set the same held_out above 0 and the same field on both, got held_out=0" in lines[0]
    assert "held_out=0.1 of 'text'" in lines[1]


@pytest.mark.parametrize(
    ("trained", "judged", "fault"),
    [
        (SPLIT, SPLIT, False),
        (SPLIT, SPLIT | {"weight": 3.0, "excerpt_chars": 7}, False),
        (SPLIT, SPLIT | {"held_out": 0.2}, True),
        (SPLIT, {"path": "text.txt"}, True),
        (SPLIT, SPLIT | {"field": "body"}, True),
        (SPLIT, {"path": "text.txt", "held_out": 0, "split": "test"}, True),
        ({"path": "some/dataset"}, {"path": "some/dataset"}, True),
        ({"path": "some/dataset"}, {"path": "some/dataset", "split": "test"}, False),
        ({"path": "some/dataset"}, {"path": "other/dataset"}, False),
    ],
)
def test_text_is_shared_only_under_one_split(
    tmp_path: Path, trained: dict[str, object], judged: dict[str, object], fault: bool
) -> None:
    path = write(
        tmp_path,
        score={"data": [trained]},
        distill={"data": [trained], "tokens": 100},
        evaluate={"data": [judged]},
    )
    if fault:
        with pytest.raises(RecipeError, match=r"evaluate\.data\.0 must not read"):
            load_recipe(path)
    else:
        load_recipe(path)


def test_a_link_to_the_text_that_is_trained_on_is_no_other_text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "link.txt").symlink_to("text.txt")
    with pytest.raises(RecipeError, match=r"evaluate\.data\.0 must not read the text that score\.data\.0 reads"):
        load_recipe(write(tmp_path, evaluate={"data": [{"path": "link.txt"}]}))


@pytest.mark.parametrize("held_out", [1, -0.1, 1.5])
def test_a_share_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path, held_out: float) -> None:
    with pytest.raises(RecipeError, match=r"score\.data\.0\.held_out"):
        load_recipe(write(tmp_path, score={"data": [{"path": "text.txt", "held_out": held_out}]}))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("distill.stages", "distill.phases"),
        ("distill.teacher.samples", "distill.teacher.drawn_tokens"),
        ("distill.teacher.window_blocks", "distill.teacher.window_sequences"),
        ("search.tournament.blocks", "search.tournament.sequences"),
        ("evaluate.blocks", "evaluate.sequences"),
        ("depth_first.distill.stages", "depth_first.distill.phases"),
    ],
)
def test_a_key_of_a_former_version_is_refused_with_its_new_name(tmp_path: Path, old: str, new: str) -> None:
    two_steps = ("depth_first.num_hidden_layers=1", "depth_first.distill.tokens=1")
    path, overrides = write(tmp_path), two_steps if old.startswith("depth_first") else ()
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, (*overrides, f"{old}=3"))
    assert str(caught.value) == f"{path}: {old} is now {new}"


@pytest.mark.parametrize(
    ("phase", "fault"),
    [
        (
            {"learning_rate": 0.1, "min_learning_rate": 1.0},
            "phase phase-2: min_learning_rate must be at most learning_rate, 0.1, got 1.0",
        ),
        ({"offload_activations": True}, "phase phase-2: offload_activations needs gradient_checkpointing: true"),
        ({"seq_len": 8200}, "phase phase-2: precision fp8 needs a seq_len that is a multiple of 16, got 8200"),
        (
            {"context_parallel": 3},
            "phase phase-2: precision fp8 needs a seq_len that is a multiple of 16 times context_parallel=3, got 8192",
        ),
        ({"tokens": None}, "distill.phases.1.tokens"),
        ({"learning_rate": 0}, "distill.phases.1.learning_rate: input should be greater than 0, got 0"),
        ({"learning_rat": 1}, "unknown key distill.phases.1.learning_rat; did you mean learning_rate?"),
        ({"optim": "sgd"}, "unknown key distill.phases.1.optim"),
    ],
)
def test_a_phase_is_validated_together_with_what_it_takes_from_the_section(
    tmp_path: Path, phase: dict[str, object], fault: str
) -> None:
    phases = [{"tokens": 100000}, {"tokens": 100000, "name": None, **phase}]
    section = {"data": [{"path": "text.txt"}], "precision": "fp8", "phases": phases}
    with pytest.raises(RecipeError, match=re.escape(fault)) as caught:
        load_recipe(write(tmp_path, distill=section), ("device=cuda",))
    assert "\n" not in str(caught.value)


def test_a_phase_takes_what_it_leaves_out_from_the_section(tmp_path: Path) -> None:
    own = [{"path": "long.txt"}]
    phases = [{"tokens": 100000, "learning_rate": 0.5}, {"tokens": 200000, "seq_len": 4096, "data": own}]
    section = {"data": [{"path": "text.txt"}], "seq_len": 2048, "warmup_steps": 7, "phases": phases}
    first, second = load_recipe(write(tmp_path, distill=section)).distill.curriculum
    assert (first.tokens, first.seq_len, first.warmup_steps, first.learning_rate) == (100000, 2048, 7, 0.5)
    assert (second.tokens, second.seq_len, second.warmup_steps, second.learning_rate) == (200000, 4096, 7, "auto")
    assert [phase.data[0].path for phase in (first, second)] == [str(tmp_path / n) for n in ("text.txt", "long.txt")]


@pytest.mark.parametrize("judged", ["shards", "shards/*.jsonl", "shards/b.jsonl"])
def test_a_folder_its_pattern_and_its_files_are_one_text(tmp_path: Path, judged: str) -> None:
    (tmp_path / "shards").mkdir()
    for name in ("a", "b"):
        (tmp_path / "shards" / f"{name}.jsonl").write_text('{"text": "a"}\n')
    distill = {"data": [{"path": "shards"}], "tokens": 100}
    with pytest.raises(RecipeError, match=r"evaluate\.data\.0 must not read the text that distill\.data\.0 reads"):
        load_recipe(write(tmp_path, distill=distill, evaluate={"data": [{"path": judged}]}))
    (tmp_path / "c.jsonl").write_text('{"text": "a"}\n')
    recipe = load_recipe(write(tmp_path, distill=distill, evaluate={"data": [{"path": "c.jsonl"}]}))
    assert recipe.distill.data[0].path == str(tmp_path / "shards")


def test_patterns_folders_and_templates_are_taken_from_the_recipes_folder(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    sources = [{"path": "chat/*.jsonl.gz", "chat_template": "chat.jinja"}, {"path": "shards"}, {"path": "owner/name"}]
    found = load_recipe(write(tmp_path, distill={"data": sources, "tokens": 100})).distill.data
    assert [source.path for source in found] == [
        str(tmp_path / "chat/*.jsonl.gz"),
        str(tmp_path / "shards"),
        "owner/name",
    ]
    assert [source.chat_template for source in found] == [str(tmp_path / "chat.jinja"), None, None]
