"""A name on the hub in the place of a folder, in every command and in a recipe, with the commit in what is written."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

import minitron
from minitron.checkpoints.lineage import read_lineage
from minitron.cli.main import main
from minitron.recipe.load import load_recipe
from tests.support.chat_templates import CHATML
from tests.support.commands import fail
from tests.support.hub_cache import COMMIT, write_hub_cache
from tests.support.recipes import write_tiny_recipe

REPO = "owner/tiny"
ORIGIN = {"repo": REPO, "commit": COMMIT}
SMALL = ("--sequences", "2", "--seq-len", "16")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe whose teacher is a name, a copy of the teacher, and a cache that holds it."""
    path = write_tiny_recipe(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    write_hub_cache(tmp_path / "hub", REPO, tmp_path / "teacher")
    path.write_text(path.read_text().replace("teacher: teacher", f"teacher: {REPO}@main"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, object]:
    assert main([*argv, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("argv", [("fit", "--context", "64"), ("check", "--reader", "transformers")], ids="-".join)
def test_a_name_gives_what_its_folder_gives(
    workplace: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    command, *more = argv
    by_name, by_folder = result(capsys, command, REPO, *more), result(capsys, command, "teacher", *more)
    assert {**by_name, "model": None} == {**by_folder, "model": None}


def test_a_drafted_recipe_keeps_the_name(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    total = result(capsys, "fit", REPO, "--context", "64")["total_bytes"]
    assert isinstance(total, int)
    asked = ("--memory-gib", str(0.5 * total / 2**30), "--context", "64", "--output", "first.yaml")
    found = result(capsys, "init", f"{REPO}@main", *asked, "--yes")
    assert found["recipe"] == "first.yaml"
    assert load_recipe(workplace / "first.yaml").teacher == f"{REPO}@main"
    assert load_recipe(workplace / "first.yaml").name == "tiny"


def test_without_its_weights_a_name_is_fitted_and_served_by_name_and_commit(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = minitron.open_checkpoint(REPO).folder
    (snapshot / "model.safetensors").unlink()
    (workplace / "teacher" / "model.safetensors").unlink()
    by_name = result(capsys, "fit", REPO, "--context", "64", "--accounting", "vllm")
    by_file = result(capsys, "fit", "teacher/config.json", "--context", "64", "--accounting", "vllm")
    assert by_name["total_bytes"] == by_file["total_bytes"]
    assert f"serve {REPO} " in str(by_name["serve"])
    assert str(by_name["serve"]).endswith(f"--revision {COMMIT}")
    assert result(capsys, "run", "recipe.yaml", "--dry-run")["stages"]
    assert "is not in the hub's cache" in fail(capsys, "run", "recipe.yaml")


def test_models_by_name_are_measured_against_each_other(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, "eval", REPO, "--teacher", f"{REPO}@{COMMIT}", "--data", "heldout.txt", *SMALL)
    assert found["kl_to_teacher"] == 0.0


def test_a_name_brings_the_chat_template_that_conversations_need(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"ask {n}", "completion": f"answer {n}"} for n in range(40)]
    (workplace / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("eval", REPO, "--teacher", REPO, "--data", "chat.jsonl", "--sequences", "2", "--seq-len", "64")
    assert "conversations need a chat template" in fail(capsys, *command)
    (minitron.open_checkpoint(REPO).folder / "chat_template.jinja").write_text(CHATML)
    found = result(capsys, *command)
    assert found["kl_to_teacher"] == 0.0


def test_a_run_pins_the_commit_in_its_result_and_in_every_lineage(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = result(capsys, "run", "recipe.yaml", "--to", "prune")
    assert found["teacher"] == ORIGIN
    lineage = read_lineage(workplace / "runs" / "tiny" / "prune" / "checkpoint")
    assert lineage is not None
    assert (lineage["teacher"]["name"], lineage["teacher"]["hub"]) == (REPO, ORIGIN)
    assert f"its commit on the hub: `{COMMIT}`" in (workplace / "runs/tiny/prune/checkpoint/README.md").read_text()


def test_a_run_of_the_same_teacher_in_a_folder_is_the_same_run(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result(capsys, "run", "recipe.yaml", "--to", "score")
    found = result(capsys, "run", "recipe.yaml", "--to", "score", "--set", "teacher=teacher")
    assert [stage["skipped"] for stage in found["stages"]] == [True]  # type: ignore[attr-defined]
    assert found["teacher"] == str(workplace / "teacher")


def test_a_merge_names_the_commits_of_its_sources(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result(capsys, "merge", REPO, "teacher", "--output", "merged")
    lineage = read_lineage(workplace / "merged")
    assert lineage is not None
    first, second = lineage["steps"][-1]["sources"]  # type: ignore[misc]
    assert (first["name"], first["commit"]) == (REPO, COMMIT)  # type: ignore[index, call-overload]
    assert second["name"] == "teacher"  # type: ignore[index, call-overload]


def test_a_folder_beside_the_recipe_goes_before_a_name(workplace: Path) -> None:
    assert load_recipe(workplace / "recipe.yaml").teacher == f"{REPO}@main"
    shutil.copytree(workplace / "teacher", workplace / f"{REPO}@main")
    assert load_recipe(workplace / "recipe.yaml").teacher == str(workplace / f"{REPO}@main")


@pytest.mark.parametrize(
    "argv",
    [
        ("fit", "nobody/nothing"),
        ("check", "nobody/nothing"),
        ("score", "nobody/nothing", "--data", "text.txt", "--output", "new"),
        ("prune", "nobody/nothing", "--scores", "scores", "--shape", "{}", "--output", "new"),
        ("quantize", "nobody/nothing", "--format", "w8a8", "--output", "new"),
        ("export", "nobody/nothing", "--format", "gguf", "--output", "new"),
        ("merge", "teacher", "nobody/nothing", "--output", "new"),
        ("bench", "nobody/nothing"),
        ("eval", "teacher", "--teacher", "nobody/nothing", "--data", "heldout.txt"),
        ("run", "recipe.yaml", "--set", "teacher=nobody/nothing"),
        ("run", "recipe.yaml", "--dry-run", "--set", "teacher=nobody/nothing"),
    ],
    ids=" ".join,
)
def test_a_name_that_is_not_in_the_cache_is_one_line_in_every_command(
    workplace: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    assert "nobody/nothing is neither a folder here nor whole in the hub's cache" in fail(capsys, *argv)
