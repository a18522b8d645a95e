"""Repair in a recipe and in `minitron prune`."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from minitron.artifacts.header import STATE_FOLDER
from minitron.artifacts.locks import locked
from minitron.checkpoints.checkpoint import checkpoint_hashes, open_checkpoint
from minitron.cli.main import main
from minitron.data.samples import Samples
from minitron.errors import RecipeError
from minitron.models.keep import Keep
from minitron.pipeline import fingerprints, pruning
from minitron.pipeline.run_folder import PLAN_FILE
from minitron.pipeline.runner import run_pipeline
from minitron.pipeline.sections import prune_section
from minitron.prune.checkpoint import OutputFormat, prune_checkpoint
from minitron.prune.plan import PrunePlan, load_plan
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.settings import RepairSettings
from minitron.prune.reconstruction.state import repair_identity
from minitron.recipe.load import load_recipe
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack
from tests.pipeline.conftest import WholeRun
from tests.support.models import write_tiny_checkpoint
from tests.support.recipes import TWO_STEPS

Begun = Callable[[str, str], Path]

REPAIR = "prune.repair={samples: 6, seq_len: 16}"


def run(recipe_path: Path, folder: Path, *overrides: str) -> dict[str, bool]:
    recipe = load_recipe(recipe_path, overrides)
    return {outcome.name: outcome.skipped for outcome in run_pipeline(recipe, folder, last="prune")}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder / "prune" / "checkpoint").state_dict()


def test_turning_repair_on_or_changing_it_prunes_anew_and_nothing_before(begun: Begun, recipe_path: Path) -> None:
    folder = begun("run", "prune")
    plain = weights_of(folder)
    assert run(recipe_path, folder, REPAIR) == {"score": True, "search": True, "prune": False}
    repaired = weights_of(folder)
    changed = {name for name in plain if not torch.equal(plain[name], repaired[name])}
    assert any("out_proj" in name for name in changed)
    assert not any("norm" in name or "embeddings" in name or "A_log" in name for name in changed)
    assert not (folder / "prune" / STATE_FOLDER).exists()
    assert run(recipe_path, folder, REPAIR)["prune"]
    assert not run(recipe_path, folder, REPAIR, "prune.repair.ridge=0.5")["prune"]


def test_epochs_move_what_the_closed_form_leaves(tmp_path: Path, recipe_path: Path) -> None:
    folder, epochs = (
        tmp_path / "run",
        "prune.repair={samples: 12, batch_size: 2, seq_len: 16, epochs: 4, rate: 0.05, ridge: 1e9}",
    )
    run(recipe_path, folder, REPAIR)
    alone = weights_of(folder)
    assert not run(recipe_path, folder, epochs)["prune"]
    trained = weights_of(folder)
    changed = {name for name in alone if not torch.equal(alone[name], trained[name])}
    assert any("A_log" in name for name in changed)
    assert any("conv1d" in name for name in changed)
    assert not any("embeddings" in name for name in changed)
    assert run(recipe_path, folder, epochs)["prune"]


def test_a_repair_without_epochs_has_no_rate_that_could_make_it_another(recipe_path: Path) -> None:
    def hashed(repair: str) -> object:
        return fingerprints.pruning(prune_section(load_recipe(recipe_path, (f"prune.repair={repair}",))))

    assert hashed("{}") == hashed("{rate: 1}")
    assert len({str(hashed(each)) for each in ("{}", "{epochs: 1}", "{epochs: 2}", "{epochs: 2, rate: 1}")}) == 4


def test_repairs_text_is_the_scores_unless_given_and_is_beside_the_recipe(tmp_path: Path, recipe_path: Path) -> None:
    section = prune_section(load_recipe(recipe_path, ("prune.repair={}",))).repair
    assert section is not None
    assert [source.path for source in section.data] == [str(tmp_path / "text.txt")]
    assert section.seq_len == 16
    given = load_recipe(recipe_path, ("prune.repair={data: [{path: problems.jsonl, field: prompt}]}",))
    section = prune_section(given).repair
    assert section is not None
    assert [source.path for source in section.data] == [str(tmp_path / "problems.jsonl")]
    assert prune_section(load_recipe(recipe_path)).repair is None


def test_missing_text_and_a_ridge_of_zero_are_refused_before_anything_runs(tmp_path: Path, recipe_path: Path) -> None:
    with pytest.raises(ValueError, match="gone.txt is not"):
        run(recipe_path, tmp_path / "run", "prune.repair={data: [{path: gone.txt}]}")
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match=r"prune\.repair\.ridge"):
        load_recipe(recipe_path, ("prune.repair={ridge: 0}",))
    with pytest.raises(RecipeError, match=r"prune\.repair.*samples must be above batch_size where there are epochs"):
        load_recipe(recipe_path, ("prune.repair={epochs: 1, samples: 8}",))


def test_an_interrupted_stage_goes_on_and_ends_with_the_same_bits(
    tmp_path: Path, recipe_path: Path, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "cut"):
        begun(name, "search")
    run(recipe_path, tmp_path / "whole", REPAIR)
    original, finished = pruning.write_repaired, 0

    def killed(checkpoint: Any, weights: Any) -> int:
        nonlocal finished
        for weight in weights:
            original(checkpoint, [weight])
            finished += 1
            if finished == 7:
                raise KeyboardInterrupt
        return finished

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pruning, "write_repaired", killed)
        run(recipe_path, tmp_path / "cut", REPAIR)
    assert list((tmp_path / "cut" / "prune.partial" / STATE_FOLDER).glob("repaired-*.safetensors"))
    run(recipe_path, tmp_path / "cut", REPAIR)
    found, expected = (checkpoint_hashes(tmp_path / name / "prune" / "checkpoint") for name in ("cut", "whole"))
    assert found == expected


@pytest.mark.parametrize("overrides", [(), (REPAIR,)], ids=["cut", "repaired"])
def test_a_cut_that_was_finished_but_not_taken_is_taken(
    tmp_path: Path, recipe_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    def killed(*_args: Any, **_settings: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pruning, "write_provenance", killed)
        run(recipe_path, tmp_path / "run", *overrides)
    weights = Path("checkpoint") / "model.safetensors"
    left = (tmp_path / "run" / "prune.partial" / weights).stat()
    run(recipe_path, tmp_path / "run", *overrides)
    taken = (tmp_path / "run" / "prune" / weights).stat()
    assert (taken.st_ino, taken.st_mtime_ns) == (left.st_ino, left.st_mtime_ns)
    assert not (tmp_path / "run" / "prune" / STATE_FOLDER).exists()


def test_a_run_folder_of_an_older_version_is_refused_before_anything_runs(tmp_path: Path, recipe_path: Path) -> None:
    old = tmp_path / "run" / "prune"
    old.mkdir(parents=True)
    (old / "artefact.json").write_text("{}")
    with pytest.raises(ValueError, match="was written by an older version of minitron"):
        run(recipe_path, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["prune"]


def test_both_of_two_steps_are_repaired(tmp_path: Path, recipe_path: Path, two_steps: WholeRun) -> None:
    run(recipe_path, tmp_path / "repaired", *TWO_STEPS, REPAIR)
    folders = (two_steps.folder, tmp_path / "repaired")
    plain, repaired = (checkpoint_hashes(folder / "depth" / "checkpoint") for folder in folders)
    assert plain["model"] != repaired["model"]
    plain_shape, shape = (open_checkpoint(folder / "prune" / "checkpoint").shape for folder in folders)
    assert plain_shape.num_hidden_layers == shape.num_hidden_layers


def test_the_verb_repairs_in_memory_or_layerwise_alike(tmp_path: Path, tiny_checkpoint: Path, scores: Path) -> None:
    (tmp_path / "text.txt").write_text("some text, long enough to fill a few samples of it " * 20)
    text = str(tmp_path / "text.txt")
    common = ["prune", str(tiny_checkpoint), "--scores", str(scores), "--shape", '{"intermediate_size": 21}']
    options = ["--repair", text, "--samples", "5", "--seq-len", "16", "--ridge", "0.02"]
    found = {}
    for name, more in (("plain", []), ("memory", options), ("layerwise", [*options, "--layerwise"])):
        output = tmp_path / name
        assert main([*common, "--output", str(output), *more]) == 0
        found[name] = checkpoint_hashes(output)["model"]
        assert load_plan(output / PLAN_FILE).target == open_checkpoint(output).shape
        assert not list(tmp_path.glob("*.partial"))
    assert found["memory"] == found["layerwise"] != found["plain"]
    missing = [*common, "--output", str(tmp_path / "no"), "--repair", str(tmp_path / "gone.txt")]
    assert main(missing) == 2


def test_the_verb_compensates_casts_and_says_so(tmp_path: Path, tiny_checkpoint: Path, scores: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n---\n".join(f"line {i} of some text" for i in range(60)))
    sizes = ["--samples", "4", "--seq-len", "16"]
    cut = ["prune", str(tiny_checkpoint), "--scores", str(scores), "--shape", '{"hidden_size": 14}']
    assert main([*cut, "--output", str(tmp_path / "plain")]) == 0
    options = ["--compensate", str(text), *sizes, "--dtype", "bf16", "--shard-gib", "0.00001"]
    assert main([*cut, "--output", str(tmp_path / "scaled"), *options]) == 0
    plain, scaled = open_checkpoint(tmp_path / "plain"), open_checkpoint(tmp_path / "scaled")
    assert {tensor.dtype for tensor in scaled.tensors.values()} == {"BF16"}
    assert scaled.config["dtype"] == "bfloat16"
    assert len({tensor.file for tensor in scaled.tensors.values()}) > 3
    plan = load_plan(tmp_path / "scaled" / PLAN_FILE)
    one, other = load_model(plain.folder).state_dict(), load_model(scaled.folder).state_dict()
    name = "backbone.layers.0.norm.weight"
    here = plan.source.family.name_in_memory(name)
    assert plan.scales[name] != 1
    torch.testing.assert_close(other[here], one[here] * plan.scales[name], rtol=1e-2, atol=0)
    assert "samples of the compensation" in (tmp_path / "scaled" / "README.md").read_text()
    assert "compensation" not in (tmp_path / "plain" / "README.md").read_text()


def test_the_verb_chooses_block_widths(tmp_path: Path, tiny_checkpoint: Path, scores: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some text, long enough to fill a hundred samples of it " * 60)
    words = ["prune", str(tiny_checkpoint), "--scores", str(scores), "--shape", '{"intermediate_size": 18}']
    output = tmp_path / "pruned"
    assert main([*words, "--output", str(output), "--block-widths", str(text), "--seq-len", "16"]) == 0
    student = open_checkpoint(output).shape
    assert len(student.block_widths) == len(student.ffn_layers)
    assert sum(student.block_widths) == 18 * len(student.ffn_layers)
    assert load_plan(output / PLAN_FILE).target == student
    missing = [*words, "--output", str(tmp_path / "no"), "--block-widths", str(tmp_path / "gone.txt")]
    assert main(missing) == 2


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of a tiny checkpoint."""
    folder = tmp_path_factory.mktemp("scored")
    (folder / "text.txt").write_text("\n---\n".join(f"line {i} of some text" for i in range(60)))
    teacher = write_tiny_checkpoint(folder / "teacher")
    words = ["score", str(teacher), "--data", str(folder / "text.txt"), "--output", str(folder / "scores")]
    assert main([*words, "--samples", "4", "--seq-len", "16"]) == 0
    return folder / "scores"


@pytest.fixture
def cut(tmp_path: Path, tiny_checkpoint: Path, scores: Path) -> list[str]:
    """The words that prune a tiny checkpoint by scores of it."""
    return ["prune", str(tiny_checkpoint), "--scores", str(scores), "--output", str(tmp_path / "pruned")]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--ridge", "0.1"], "--ridge and --epochs are for --repair"),
        (["--epochs", "2"], "--ridge and --epochs are for --repair"),
        (["--samples", "3"], "are for --compensate and --repair"),
        (["--layerwise"], "are for --compensate and --repair"),
        (["--seq-len", "16"], "--seq-len is for --compensate, --repair and --block-widths"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    cut: list[str], capsys: pytest.CaptureFixture[str], options: list[str], fault: str
) -> None:
    assert main([*cut, "--shape", "{}", *options]) == 2
    assert fault in capsys.readouterr().err


def test_weights_that_fp16_cannot_hold_are_refused(tmp_path: Path, cut: list[str], tiny_checkpoint: Path) -> None:
    assert main([*cut, "--shape", "{}", "--dtype", "fp16"]) == 0
    tensors = load_file(tiny_checkpoint / "model.safetensors")
    tensors["backbone.embeddings.weight"][270] = 1e6
    save_file(tensors, tiny_checkpoint / "model.safetensors", metadata={"format": "pt"})
    source = open_checkpoint(tiny_checkpoint)
    keep = Keep(layers=tuple(range(8)), indices={})
    plan = PrunePlan(source=source.shape, target=source.shape, keep=keep)
    with pytest.raises(
        ValueError, match="must fit fp16 to be cast to it, backbone.embeddings.weight holds larger ones"
    ):
        prune_checkpoint(source, plan, tmp_path / "large", OutputFormat(dtype="F16"))
    assert not (tmp_path / "large" / "config.json").exists()


def test_a_second_process_is_kept_out_of_a_cut_that_is_being_made(
    tmp_path: Path, cut: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path / "pruned"):
        assert main([*cut, "--shape", "{}"]) == 2
    assert "another process is writing" in capsys.readouterr().err
    assert main([*cut, "--shape", "{}"]) == 0
    assert not (tmp_path / "pruned.partial").exists()


def test_a_plan_is_shown_and_what_is_none_is_refused(
    tmp_path: Path, cut: list[str], scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*cut, "--shape", '{"hidden_size": 14}']) == 0
    capsys.readouterr()
    assert main(["plan", str(tmp_path / "pruned"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["sizes"]["hidden_size"] == {"before": 22, "after": 14}
    assert main(["plan", str(tmp_path / "pruned"), str(tmp_path / "pruned")]) == 0
    assert "the plans are the same" in capsys.readouterr().out
    assert main(["plan", str(scores / "scores.safetensors")]) == 2
    assert "a plan file is expected at" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "pruned").glob("*.safetensors") if path.name != "model.safetensors"]


def test_repaired_weights_of_a_plan_with_other_factors_are_not_taken(tiny_checkpoint: Path) -> None:
    source = open_checkpoint(tiny_checkpoint)
    stack = LayerwiseStack(source)
    plan = PrunePlan(source=source.shape, target=source.shape, keep=Keep(layers=tuple(range(8)), indices={}))
    samples = Samples(token_ids=np.zeros((1, 4), dtype=np.int32))
    ways = [
        repair_identity(samples, Alignment(teacher=stack, student=stack, plan=each), RepairSettings(), {}, processes=1)
        for each in (plan, replace(plan, scales={"backbone.norm_f.weight": 1.5}))
    ]
    assert ways[0] != ways[1]
