"""A drafted recipe validates, fits what was asked, and names nothing that is not so."""

import json
from pathlib import Path
from typing import Any

import pytest

import minitron
from minitron.drafting.values import LAYERWISE
from minitron.dry_run.run import plan_run
from minitron.estimate.serving.fit import FITS
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.models.config import shape_from_config
from minitron.recipe.load import load_recipe
from minitron.units import GIB
from tests.support import published_configs
from tests.support.paths import ROOT

RECIPES = ROOT / "examples" / "recipes"
# Shipped configuration -> a budget that its teacher does not meet.
SHIPPED: dict[Path, dict[str, Any]] = {
    RECIPES / "NVIDIA-Nemotron-Nano-12B-v2": {"gpu": "a10g"},
    RECIPES / "NVIDIA-Nemotron-Nano-9B-v2": {"gpu": None, "memory_gib": 16.0},
    RECIPES / "Nemotron-H-4B-Base-8K": {"gpu": None, "memory_gib": 5.5, "context_tokens": 8192, "train_gpu": "rtx4090"},
    ROOT / "examples" / "quickstart" / "teacher": {"gpu": None, "memory_gib": 0.004, "context_tokens": 2048},
}
PUBLISHED: dict[str, dict[str, Any]] = {
    name: found for name, found in vars(published_configs).items() if isinstance(found, dict) and "model_type" in found
}


def assert_it_holds(draft: minitron.Draft) -> dict[str, Any]:
    """It validates as it stands, and what its dry run counts on is within the budget and on its GPUs."""
    recipe = load_recipe(draft.recipe)
    found = plan_run(recipe, [str(draft.recipe)])
    assert found == draft.dry_run
    assert found.sizes.teacher.memory.total_bytes > found.sizes.budget_bytes
    assert found.sizes.student.memory.total_bytes <= found.sizes.budget_bytes
    shapes = [(each.shape, each.blocks) for each in found.sizes.candidates]
    assert len(shapes) > 1
    assert all(shape not in shapes[:number] for number, shape in enumerate(shapes))
    assert not found.warnings
    return recipe.model_dump()


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_of_each_shipped_configuration_it_fits_what_was_asked(tmp_path: Path, folder: Path) -> None:
    draft = minitron.draft_recipe(folder, tmp_path / "recipe.yaml", minitron.Wishes(**SHIPPED[folder]))
    values = assert_it_holds(draft)
    assert Path(values["teacher"]).samefile(folder)
    assert values["budget"]["readers"] == ("vllm",)
    assert [Path(text).name for text in draft.dry_run.missing] == ["text.jsonl"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_of_each_published_configuration_three_quarters_of_its_memory_are_enough(tmp_path: Path, name: str) -> None:
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "config.json").write_text(json.dumps(PUBLISHED[name]))
    total = memory_bytes(shape_from_config(PUBLISHED[name]), Workload(context_tokens=4096)).total_bytes
    wishes = minitron.Wishes(gpu=None, memory_gib=0.75 * total / GIB, context_tokens=4096, train_gpu="h200")
    assert_it_holds(minitron.draft_recipe(teacher, tmp_path / "recipe.yaml", wishes))


def test_sizes_go_no_further_down_than_something_fits(tmp_path: Path) -> None:
    folder = RECIPES / "NVIDIA-Nemotron-Nano-12B-v2"
    least = []
    for number, memory in enumerate((22.0, 12.0, 7.0)):
        wishes = minitron.Wishes(gpu=None, memory_gib=memory)
        draft = minitron.draft_recipe(folder, tmp_path / f"{number}.yaml", wishes)
        least.append(min(assert_it_holds(draft)["search"]["hidden_size"]))
    assert least[0] == 3840
    assert least[0] > least[1] > least[2]
    with pytest.raises(minitron.MinitronError, match="must hold at least one of the"):
        minitron.draft_recipe(folder, tmp_path / "none.yaml", minitron.Wishes(gpu=None, memory_gib=1.0))
    assert not (tmp_path / "none.yaml").exists()


@pytest.mark.parametrize(
    ("gpu", "gpus", "count", "mode", "sharding"),
    [
        ("h100", None, 1, "cached", "ddp"),
        ("h100", 4, 4, "online", "fsdp2"),
        ("h200", None, 1, "cached", "ddp"),
        ("a10g", None, 8, "online", "fsdp2"),
    ],
)
def test_training_is_the_first_way_that_the_gpus_hold(
    tmp_path: Path, gpu: str, gpus: int | None, count: int, mode: str, sharding: str
) -> None:
    folder, wishes = RECIPES / "Nemotron-H-4B-Base-8K", minitron.Wishes(gpu=None, memory_gib=7, context_tokens=8192)
    if gpu != "a10g":
        folder, wishes = RECIPES / "NVIDIA-Nemotron-Nano-12B-v2", minitron.Wishes()
    wishes = minitron.Wishes(**{**wishes_of(wishes), "train_gpu": gpu, "train_gpus": gpus})
    draft = minitron.draft_recipe(folder, tmp_path / "recipe.yaml", wishes)
    recipe = load_recipe(draft.recipe)
    assert recipe.devices is not None
    assert (recipe.devices.gpu, recipe.devices.count) == (gpu, count)
    assert (recipe.distill.teacher.mode, recipe.distill.sharding) == (mode, sharding)


def wishes_of(wishes: minitron.Wishes) -> dict[str, Any]:
    return {name: getattr(wishes, name) for name in minitron.Wishes.__dataclass_fields__}


def test_what_no_gpu_holds_is_written_with_its_warning(tmp_path: Path) -> None:
    wishes = minitron.Wishes(train_gpu="l4", train_gpus=2)
    draft = minitron.draft_recipe(RECIPES / "NVIDIA-Nemotron-Nano-12B-v2", tmp_path / "recipe.yaml", wishes)
    assert any("distill does not fit" in warning for warning in draft.dry_run.warnings)
    held = {stage.name: stage.held for stage in draft.dry_run.stages if stage.held is not None}
    assert all(each.verdict == FITS for each in held.values() if each is not None)


def test_on_a_cpu_nothing_is_asked_of_a_gpu(tmp_path: Path) -> None:
    wishes = minitron.Wishes(train_gpu="cpu")
    draft = minitron.draft_recipe(RECIPES / "NVIDIA-Nemotron-Nano-12B-v2", tmp_path / "recipe.yaml", wishes)
    recipe = load_recipe(draft.recipe)
    assert (recipe.device, recipe.devices, recipe.distill.precision) == ("cpu", None, "fp32")
    assert recipe.prune.repair is not None
    assert [recipe.score.layerwise, recipe.prune.repair.layerwise, recipe.evaluate.layerwise] == [True] * len(LAYERWISE)


def test_text_is_named_from_the_recipes_folder_and_part_of_it_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.jsonl").write_text('{"text": "a"}\n')
    folder, recipe = RECIPES / "NVIDIA-Nemotron-Nano-12B-v2", tmp_path / "recipes" / "first.yaml"
    recipe.parent.mkdir()
    wishes = minitron.Wishes(data=(str(tmp_path / "text" / "a.jsonl"), "owner/blend"))
    minitron.draft_recipe(folder, recipe, wishes)
    assert recipe.read_text().count("data: [{path: ../text/a.jsonl, held_out: 0.05}, {path: owner/blend,") == 3
    loaded = load_recipe(recipe)
    assert Path(loaded.distill.data[0].path).resolve() == (tmp_path / "text" / "a.jsonl").resolve()
    apart = tmp_path / "apart.yaml"
    minitron.draft_recipe(folder, apart, minitron.Wishes(data=("text/a.jsonl",), heldout=("held.jsonl",)))
    assert [source.held_out for source in load_recipe(apart).distill.data] == [0]
    assert Path(load_recipe(apart).evaluate.data[0].path).name == "held.jsonl"


def test_what_cannot_be_drafted_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    folder, recipe = RECIPES / "NVIDIA-Nemotron-Nano-9B-v2", tmp_path / "recipe.yaml"
    for wishes, word in {
        minitron.Wishes(): "there is nothing to cut, the teacher takes 18.689 GiB of 20.957 GiB at 1 x 131,072 tokens",
        minitron.Wishes(gpu="h1000"): "gpu must be one of",
        minitron.Wishes(max_params=8_000_000_000, train_gpu="tpu"): "gpu must be one of",
        minitron.Wishes(max_params=8_000_000_000, data=()): "text to calibrate and train on must be named",
        minitron.Wishes(max_params=8_000_000_000, context_tokens=0): "context_tokens",
    }.items():
        with pytest.raises(minitron.MinitronError, match=word):
            minitron.draft_recipe(folder, recipe, wishes)
        assert not recipe.exists()
    recipe.write_text("mine")
    with pytest.raises(minitron.MinitronError, match="is there already"):
        minitron.draft_recipe(folder, recipe, minitron.Wishes(max_params=8_000_000_000))
    assert recipe.read_text() == "mine"


def test_a_limit_of_parameters_is_one(tmp_path: Path) -> None:
    wishes = minitron.Wishes(max_params=7_000_000_000)
    draft = minitron.draft_recipe(RECIPES / "NVIDIA-Nemotron-Nano-9B-v2", tmp_path / "recipe.yaml", wishes)
    assert draft.dry_run.sizes.student.params <= 7_000_000_000


def test_a_context_beyond_the_teachers_is_warned_of(tmp_path: Path) -> None:
    draft = minitron.draft_recipe(
        RECIPES / "Nemotron-H-4B-Base-8K", tmp_path / "recipe.yaml", minitron.Wishes(gpu=None, memory_gib=7.0)
    )
    assert draft.warnings[0].startswith("the teacher's configuration allows 8,192 tokens, engines refuse the 131,072")


def test_a_cut_deeper_than_published_ones_is_warned_of(tmp_path: Path) -> None:
    folder = RECIPES / "NVIDIA-Nemotron-Nano-12B-v2"
    for number, (memory, words) in enumerate({22.0: [], 9.0: ["of the teacher's parameters are left"]}.items()):
        draft = minitron.draft_recipe(folder, tmp_path / f"{number}.yaml", minitron.Wishes(gpu=None, memory_gib=memory))
        assert len(draft.warnings) == len(words)
        assert all(word in warning for word, warning in zip(words, draft.warnings, strict=True))
