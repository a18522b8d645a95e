"""What a stage's result depends on, and what it does not."""

from pathlib import Path

import pytest

from minitron.pipeline import fingerprints
from minitron.recipe.load import load_recipe

TOURNAMENT = ("search.choose=tournament", "search.tournament={tokens: [64, 128], sequences: 3}")
OWN_TEXT = (*TOURNAMENT, "distill.tokens=null", "distill.phases=[{data: [{path: own.txt}], tokens: 256}, {tokens: 64}]")


@pytest.fixture
def own_text(recipe_path: Path) -> Path:
    path = recipe_path.parent / "own.txt"
    path.write_text("a phase's own text")
    return path


def test_a_tournament_depends_on_the_content_of_the_text_that_it_trains_on(recipe_path: Path, own_text: Path) -> None:
    recipe = load_recipe(recipe_path, OWN_TEXT)
    before = fingerprints.search(recipe)
    (recipe_path.parent / "text.txt").write_text("the section's text, which the first phase leaves aside")
    assert fingerprints.search(recipe) == before
    own_text.write_text("a phase's own text, changed")
    assert fingerprints.search(recipe) != before


@pytest.mark.parametrize(
    "override",
    [
        "distill.micro_batch_size=1",
        "distill.chunk_tokens=7",
        "distill.gradient_checkpointing=true",
        "distill.sharding=fsdp2",
        "distill.save_steps=3",
        "distill.epochs=2",
        "distill.tokens=512",
        "distill.weights_dtype=bf16",
        "distill.teacher.dtype=bf16",
        "distill.teacher={mode: cached, top_k: 5}",
        "distill.loss.hidden={weight: 2}",
        "search.top_k=3",
    ],
)
def test_a_tournament_does_not_depend_on_what_changes_speed_or_what_it_does_not_use(
    recipe_path: Path, override: str
) -> None:
    before = fingerprints.search(load_recipe(recipe_path, TOURNAMENT))
    assert fingerprints.search(load_recipe(recipe_path, (*TOURNAMENT, override))) == before


@pytest.mark.parametrize(
    "override",
    [
        "distill.learning_rate=0.01",
        "distill.batch_size=4",
        "distill.seq_len=8",
        "distill.warmup_steps=1",
        "distill.optim=sgd",
        "distill.precision=bf16",
        "distill.loss.temperature=2",
        "search.shortlist=3",
        "search.tournament.tokens=[64, 96]",
        "budget.context_tokens=32",
    ],
)
def test_a_tournament_depends_on_how_it_trains(recipe_path: Path, override: str) -> None:
    before = fingerprints.search(load_recipe(recipe_path, TOURNAMENT))
    assert fingerprints.search(load_recipe(recipe_path, (*TOURNAMENT, override))) != before


def test_candidates_depend_on_the_readers_and_on_the_gpus_that_these_split_over(recipe_path: Path) -> None:
    free, readers = fingerprints.search(load_recipe(recipe_path)), ("budget.readers=[transformers]",)
    asked = fingerprints.search(load_recipe(recipe_path, readers))
    assert asked != free
    assert fingerprints.search(load_recipe(recipe_path, (*readers, "budget.tensor_parallel=2"))) != asked


def test_a_budget_without_readers_has_the_fingerprint_of_before_there_were_any(recipe_path: Path) -> None:
    found = fingerprints.search(load_recipe(recipe_path, ("budget.tensor_parallel=2",)))
    assert found == fingerprints.search(load_recipe(recipe_path))
    assert isinstance(found["budget"], dict)
    assert not {"readers", "tensor_parallel"} & found["budget"].keys()


def test_zero_shot_depends_on_its_text_and_not_on_training(recipe_path: Path) -> None:
    zero_shot = ("search.choose=zero_shot",)
    before = fingerprints.search(load_recipe(recipe_path, zero_shot))
    assert fingerprints.search(load_recipe(recipe_path, (*zero_shot, "distill.learning_rate=0.01"))) == before
    (recipe_path.parent / "text.txt").write_text("another text")
    assert fingerprints.search(load_recipe(recipe_path, zero_shot)) != before


def test_a_curriculum_of_one_phase_is_the_section_itself(recipe_path: Path) -> None:
    plain = load_recipe(recipe_path)
    phased = load_recipe(recipe_path, ("distill.tokens=null", "distill.phases=[{tokens: 256}]"))
    assert fingerprints.distill(phased) == fingerprints.distill(plain)


def test_processes_side_by_side_change_no_result(recipe_path: Path) -> None:
    for choose in ("importance", "zero_shot", "repaired"):
        one, several = (
            fingerprints.search(load_recipe(recipe_path, (f"search.choose={choose}", f"search.processes={number}")))
            for number in (1, 4)
        )
        assert one == several


@pytest.mark.parametrize("choose", ["search.choose=repaired", TOURNAMENT])
def test_candidates_that_are_repaired_depend_on_how(recipe_path: Path, choose: str | tuple[str, ...]) -> None:
    words = (choose,) if isinstance(choose, str) else choose

    def found(*overrides: str) -> object:
        return fingerprints.search(load_recipe(recipe_path, (*words, *overrides)))

    before = found("prune.repair={samples: 6}")
    assert found("prune.repair={samples: 6}", "prune.shard_gib=1") == before
    assert found("prune.repair={samples: 6, ridge: 0.1}") != before
    assert found("prune.repair={samples: 6}", "prune.weights_dtype=bf16") != before
    (recipe_path.parent / "other.txt").write_text("other text")
    assert found("prune.repair={samples: 6, data: [{path: other.txt}]}") != before


def test_candidates_that_are_not_repaired_do_not_depend_on_it(recipe_path: Path) -> None:
    for choose in ("importance", "zero_shot"):
        before = fingerprints.search(load_recipe(recipe_path, (f"search.choose={choose}",)))
        repaired = (f"search.choose={choose}", "prune.repair={samples: 6}")
        assert fingerprints.search(load_recipe(recipe_path, repaired)) == before


def test_metrics_of_whole_models_in_fp32_have_the_fingerprint_of_before_there_were_other_ways(
    recipe_path: Path,
) -> None:
    before = fingerprints.evaluate(load_recipe(recipe_path))
    assert isinstance(before["evaluate"], dict)
    assert before["evaluate"].keys() == {"sequences", "seq_len", "task", "speed"}
    assert fingerprints.evaluate(load_recipe(recipe_path, ("evaluate.dtype=fp32",))) == before
    assert fingerprints.evaluate(load_recipe(recipe_path, ("evaluate.dtype=bf16",))) != before
    whole = ("evaluate.task=null", "evaluate.speed=null")
    blocks = fingerprints.evaluate(load_recipe(recipe_path, (*whole, "evaluate.layerwise=true")))
    assert blocks != fingerprints.evaluate(load_recipe(recipe_path, whole))


def test_auto_on_cuda_is_measured_in_bf16(recipe_path: Path) -> None:
    on_cuda = fingerprints.evaluate(load_recipe(recipe_path, ("device=cuda",)))
    assert on_cuda == fingerprints.evaluate(load_recipe(recipe_path, ("device=cuda", "evaluate.dtype=bf16")))
    assert on_cuda != fingerprints.evaluate(load_recipe(recipe_path, ("device=cuda", "evaluate.dtype=fp32")))
