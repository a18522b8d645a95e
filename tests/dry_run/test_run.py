"""`minitron run --dry-run`: what it says of a run follows from the recipe and a config.json, and nothing is loaded."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minitron.cli.main import main
from minitron.distill.teachers.records import bytes_per_token
from minitron.dry_run.disk import cache_token_bytes
from minitron.dry_run.shapes import in_proportion, kept_layers, plan_shapes
from minitron.models.shape import HybridShape
from minitron.pipeline.runner import stages_of
from minitron.recipe.load import load_recipe
from tests.support.commands import fail
from tests.support.dry_runs import commands, forecast
from tests.support.models import make_tiny_shape

TWO_GPUS = ("--set", "devices={gpu: h100, gpus_per_node: 2}")


def test_weights_and_text_need_not_be_there(recipe_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = forecast(capsys, recipe_path, *TWO_GPUS)
    assert whole["missing"] == []
    for path in (recipe_path.parent / "teacher").iterdir():
        if path.name != "config.json":
            path.unlink()
    for text in ("text.txt", "problems.jsonl"):
        (recipe_path.parent / text).unlink()
    bare = forecast(capsys, recipe_path, *TWO_GPUS)
    assert bare.pop("missing") == [str(recipe_path.parent / text) for text in ("text.txt", "problems.jsonl")]
    assert [found.pop("teacher")["weights_are_there"] for found in (whole, bare)] == [True, False]
    assert whole.pop("missing") == []
    assert bare == whole


def test_a_dry_run_loads_no_torch_and_writes_nothing(recipe_path: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from minitron.cli.main import main; "
        f"code = main(['run', {str(recipe_path)!r}, '--dry-run', '--output', {str(tmp_path / 'run')!r}]); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'transformers', 'matplotlib', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("correct_teacher={tokens: 64, seq_len: 16, batch_size: 2}", "distill.teacher.mode=cached"),
        (
            "search.num_hidden_layers=null",
            "depth_first={num_hidden_layers: 6, distill: {data: [{path: text.txt}], tokens: 64, seq_len: 16, "
            "batch_size: 2}}",
        ),
    ],
)
def test_the_stages_are_those_of_the_pipeline(
    recipe_path: Path, capsys: pytest.CaptureFixture[str], overrides: tuple[str, ...]
) -> None:
    found = forecast(capsys, recipe_path, *(word for each in overrides for word in ("--set", each)))
    stages = stages_of(load_recipe(recipe_path, overrides))
    assert [stage["name"] for stage in found["stages"]] == [stage.name for stage in stages]
    assert [stage["processes"] for stage in found["stages"]] == [stage.processes for stage in stages]


def test_without_devices_operations_are_given_and_hours_are_not(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = forecast(capsys, recipe_path)
    assert found["devices"] is None
    assert found["hours"] is found["gpu_hours"] is None
    assert found["operations"] > 0
    assert any("--set devices.gpu=h100" in note for note in found["assumptions"])
    assert main(["run", str(recipe_path), "--dry-run"]) == 0
    assert "no devices given" in capsys.readouterr().out


def test_hours_of_the_clock_are_shared_and_those_of_devices_are_summed(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = forecast(capsys, recipe_path, *TWO_GPUS)
    distill = next(stage for stage in found["stages"] if stage["name"] == "distill")
    assert distill["hours"] == pytest.approx(distill["gpu_hours"] / 2)
    assert distill["operations"] == sum(each["operations"] for each in distill["trainings"])
    score = next(stage for stage in found["stages"] if stage["name"] == "score")
    assert score["hours"] == pytest.approx(score["gpu_hours"] / 2)
    for key in ("operations", "hours", "gpu_hours"):
        assert found[key] == pytest.approx(sum(stage[key] for stage in found["stages"]))


def test_one_command_of_each_launcher_goes_through_all_stages(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = commands(forecast(capsys, recipe_path, "--set", "devices.gpu=h100"))
    given = f"{recipe_path} --set devices.gpu=h100"
    assert one == [f"minitron run {given}", f"minitron distill {given}"]
    (step,) = forecast(capsys, recipe_path, *TWO_GPUS)["launch"]
    assert step["stages"] == ["score", "search", "prune", "distill", "evaluate", "report"]
    given = f"{recipe_path} --set '{TWO_GPUS[1]}'"
    assert step["commands"] == [
        f"accelerate launch --multi_gpu --num_machines 1 --num_processes 2 -m minitron run {given}",
        f"torchrun --standalone --nproc-per-node 2 -m minitron run {given}",
    ]


def test_candidates_are_measured_by_as_many_devices_as_there_are_candidates(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def hours(choose: str) -> float:
        settings = (f"search.choose={choose}", "search.shortlist=3", "devices={gpu: h100, gpus_per_node: 4}")
        words = [word for setting in (*settings, "distill.batch_size=4") for word in ("--set", setting)]
        found = forecast(capsys, recipe_path, *words, "--set", "search.tournament.tokens=[64]")
        search = next(stage for stage in found["stages"] if stage["name"] == "search")
        return float(search["gpu_hours"] / search["hours"])

    assert hours("repaired") == pytest.approx(3)
    assert hours("tournament") == pytest.approx(4)  # which train each one together


def test_several_machines_are_told_who_is_first(recipe_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    devices = "devices={gpu: h100, nodes: 2, gpus_per_node: 1}"
    accelerate, torchrun = commands(forecast(capsys, recipe_path, "--set", devices))
    assert "--num_machines 2 --num_processes 2 --machine_rank THIS_MACHINE --main_process_ip FIRST_M" in accelerate
    assert "--nnodes 2 --node-rank THIS_MACHINE --nproc-per-node 1 --master-addr FIRST_MACHINE_IP" in torchrun


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("teacher=nowhere", "checkpoint folder not found"),
        ("budget.memory_bytes=1000", "the budget must hold at least one of the 18 shapes"),
        ("search.hidden_size=[14, 23]", "search.hidden_size must hold sizes up to the teacher's 22, got [14, 23]"),
        ("search.keep_attention=2", "num_hidden_layers"),
        ("distill.tokens=31", "distill.tokens must fill one batch of 2 x 16 = 32 tokens, got 31"),
        ("devices={gpus_per_node: 3}", "distill.batch_size must be a multiple of 3 devices"),
        ("distill.sharding=fsdp2", "needs several devices, got 1"),
        ("distill.teacher.mode=layerwise", "a layerwise teacher takes one process"),
        ("distill.context_parallel=3", "distill.context_parallel must divide the devices, 2, got 3"),
        ("devices={gpu: abacus}", "gpu must be one of"),
        ("search.processes=3", "search.processes must be 1 where a launcher starts several processes, 2 here"),
        ("distill.optim=adamx", "optim must be one of Trainer's"),
        ("distill.teacher={mode: cached, top_k: 271}", "distill.teacher.top_k must be below the vocabulary's 271"),
    ],
)
def test_a_fault_that_can_be_known_is_one_line(
    recipe_path: Path, capsys: pytest.CaptureFixture[str], override: str, fault: str
) -> None:
    devices = {"distill.sharding=fsdp2": "devices.gpu=l4", "distill.teacher.mode=layerwise": TWO_GPUS[1]}
    devices["distill.context_parallel=3"] = devices["search.processes=3"] = TWO_GPUS[1]
    if override == "search.keep_attention=2":
        override, fault = "search.num_hidden_layers=[1]", "at least 2 of 8 blocks must stay under the quotas, got 1"
        devices[override] = "search.keep_attention=2"
    more = ("--set", devices[override]) if override in devices else ()
    assert fault in fail(capsys, "run", str(recipe_path), "--dry-run", *more, "--set", override)


def test_a_dry_run_is_of_the_whole_run(recipe_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "neither --from nor --to" in fail(capsys, "run", str(recipe_path), "--dry-run", "--to", "score")


def test_what_does_not_fit_is_warned_of_with_the_longest_sequence_that_would(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = ("--set", "distill.seq_len=12000000", "--set", "distill.tokens=24000000", *TWO_GPUS)
    found = forecast(capsys, recipe_path, *long)
    (row,) = next(stage["trainings"] for stage in found["stages"] if stage["name"] == "distill")
    assert row["memory"]["verdict"] == "does not fit"
    assert 0 < row["memory"]["longest_block_tokens"] < 12000000
    assert f"sequences of up to {row['memory']['longest_block_tokens']:,} tokens would fit" in found["warnings"][0]


def test_settings_that_are_known_not_to_work_together_are_warned_of(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sharded = ("--set", "distill.sharding=fsdp2", "--set", "distill.optim=adamw_torch_8bit")
    (warning,) = forecast(capsys, recipe_path, *TWO_GPUS, *sharded)["warnings"]
    assert "distill.optim: torchao 0.18 fails" in warning
    assert forecast(capsys, recipe_path, *TWO_GPUS, *sharded[2:])["warnings"] == []


def test_blocks_go_in_proportion_under_the_quotas(recipe_path: Path, tiny_shape: HybridShape) -> None:
    recipe = load_recipe(
        recipe_path, ("search.num_hidden_layers=[5]", "search.keep_attention=2", "budget.memory_bytes=100000000")
    )
    shapes = plan_shapes(recipe, tiny_shape)
    assert shapes.student.num_hidden_layers == 5
    assert shapes.student.count("*") == 2
    assert shapes.lightest <= shapes.student.params <= shapes.heaviest
    assert shapes.lightest < shapes.heaviest
    uneven = make_tiny_shape(hybrid_override_pattern="MMMMMM---**")
    eight = kept_layers(recipe, uneven, in_proportion, 8)
    assert "".join(uneven.hybrid_override_pattern[layer] for layer in eight) == "MMMM--**"
    first = kept_layers(recipe, tiny_shape, lambda pattern, layers, removable: removable[0], 5)
    assert "".join(tiny_shape.hybrid_override_pattern[layer] for layer in first) == "*M-*-"


def test_scores_that_choose_are_said_to_and_what_is_counted_is_the_largest_that_fits(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_scores = forecast(capsys, recipe_path)["shapes"]
    largest = forecast(capsys, recipe_path, "--set", "search.choose=largest")["shapes"]
    assert by_scores["depends_on_scores"]
    assert not largest["depends_on_scores"]
    assert by_scores["student"] == largest["student"]
    assert largest["student"]["memory"]["total_bytes"] <= largest["budget_bytes"]
    assert 0 < largest["num_feasible"] < largest["num_shapes"] == 18


@pytest.mark.parametrize(("vocab_size", "top_k"), [(131072, 64), (131073, 7), (271, 3)])
@pytest.mark.parametrize("samples", [0, 16])
def test_a_cached_token_takes_what_the_cache_gives_it(vocab_size: int, top_k: int, samples: int) -> None:
    assert cache_token_bytes(vocab_size, top_k, samples) == bytes_per_token(vocab_size, top_k, samples)


def test_the_disk_holds_the_cache_the_students_and_what_passes(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = forecast(capsys, recipe_path, "--set", "distill.teacher={mode: cached, top_k: 5, drawn_tokens: 2}")
    student = found["shapes"]["student"]["params"]
    sizes = {(item["stage"], item["what"]): item["bytes"] for item in found["disk"]["items"]}
    token = cache_token_bytes(271, 5, 2)
    assert sizes["cache", f"teacher's cache, {token} bytes a token"] == 256 * token + 16 * 8
    assert sizes["cache", "packed text"] == 2 * 256
    assert sizes["prune", "checkpoint"] == sizes["distill", "checkpoint"] == 4 * student  # the teacher is in fp32
    assert sizes["distill", "two resumable states"] == 2 * (4 + 8) * student
    assert found["disk"]["stays_bytes"] == 8 * student + 256 * (token + 2) + 16 * 8
    assert sizes["distill", "two kept states' weights"] == 2 * 4 * student
    assert found["disk"]["most_bytes"] == found["disk"]["stays_bytes"] + (24 + 8) * student


def test_a_search_counts_what_its_candidates_cost_and_holds_as_many_models_as_it_has_processes(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def planned(*overrides: str) -> dict[str, Any]:
        words = [word for override in overrides for word in ("--set", override)]
        stages = forecast(capsys, recipe_path, *words, "--set", "devices.gpu=h100")["stages"]
        found: dict[str, Any] = next(stage for stage in stages if stage["name"] == "search")
        return found

    one, two = (planned("search.choose=repaired", f"search.processes={number}") for number in (1, 2))
    assert "chosen by repaired of 5, in 2 processes" in two["does"]
    assert two["operations"] == one["operations"]
    weights = two["holds"]["total_bytes"] - one["holds"]["total_bytes"]
    assert 0 < weights < one["holds"]["total_bytes"]
    zero_shot, importance = planned("search.choose=zero_shot"), planned()
    assert importance["operations"] == 0 < zero_shot["operations"] < one["operations"]
    more = planned("search.choose=repaired", "prune.repair={samples: 256}")
    assert more["operations"] > one["operations"]


def test_an_evaluation_block_by_block_holds_no_model_and_its_hidden_states_are_on_disk(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (*TWO_GPUS, "--set", "evaluate.task=null", "--set", "evaluate.speed=null")
    layerwise = ("--set", "evaluate.layerwise=true")
    whole, blocks, narrow = (
        forecast(capsys, recipe_path, *asked, *more) for more in ((), layerwise, ("--set", "evaluate.dtype=bf16"))
    )
    held, none, half = (
        next(stage for stage in found["stages"] if stage["name"] == "evaluate")["holds"]
        for found in (whole, blocks, narrow)
    )
    assert none is None
    assert held["what"] == "the teacher and a student in fp32"
    assert half["what"] == "the teacher and a student in bf16"
    assert half["total_bytes"] < held["total_bytes"]
    # 2 sequences of 16 tokens: the teacher's states, and before and after a block those of a model, 22 wide at most.
    states = {item["what"]: item["bytes"] for item in blocks["disk"]["items"] if item["stage"] == "evaluate"}
    assert list(states) == ["hidden states of the text"]
    assert 2 * 16 * 4 * 2 * 22 <= states["hidden states of the text"] <= 2 * 16 * 4 * 3 * 22
