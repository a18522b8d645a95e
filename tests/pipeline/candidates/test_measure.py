"""Candidates measured after repair: what the run's own cut and repair give, in one process or several, resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minitron.artifacts.header import STATE_FOLDER
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.evaluate.perplexity import evaluate_text
from minitron.importance.scores import load_scores
from minitron.models.shape import HybridShape
from minitron.pipeline.calibration import read_samples
from minitron.pipeline.candidates import memory
from minitron.pipeline.candidates.bench import Bench
from minitron.pipeline.candidates.saved import MEASURED_FILE
from minitron.pipeline.candidates.text import read_text
from minitron.pipeline.context import Execution
from minitron.pipeline.pruning import Cut, prune_to
from minitron.pipeline.run_folder import CANDIDATES_FILE, CHECKPOINT_FOLDER, SCORES_FILE
from minitron.pipeline.runner import run_pipeline
from minitron.pipeline.sections import candidate_repair, prune_section
from minitron.recipe.load import load_recipe
from minitron.runtime.loading import load_model
from tests.support.paths import ROOT

PROGRAM = "from minitron.cli.main import main; raise SystemExit(main())"

Begun = Callable[[str, str], Path]

REPAIRED = ("search.choose=repaired", "search.shortlist=5", "prune.repair={samples: 6, batch_size: 2}")


def search(recipe_path: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    for _ in run_pipeline(load_recipe(recipe_path, (*REPAIRED, *overrides)), folder, last="search"):
        pass
    found: dict[str, Any] = json.loads((folder / "search" / CANDIDATES_FILE).read_text())
    return found


# In memory what the cut merely slices is not rounded to the stored dtype; what is refitted is.
@pytest.mark.parametrize(
    ("override", "rel"),
    [("prune.weights_dtype=null", 1e-5), ("prune.weights_dtype=bf16", 2e-2), ("prune.compensate={samples: 4}", 1e-5)],
)
def test_repaired_measures_what_the_cut_and_repair_of_a_run_give(
    tmp_path: Path, recipe_path: Path, begun: Begun, override: str, rel: float
) -> None:
    found = search(recipe_path, begun("run", "score"), override)
    kls = [candidate["repaired"]["kl"] for candidate in found["candidates"]]
    assert kls == sorted(kls)
    assert kls[0] < kls[-1]
    recipe = load_recipe(recipe_path, (*REPAIRED, override))
    source, scores = open_checkpoint(Path(recipe.teacher)), load_scores(tmp_path / "run" / "score" / SCORES_FILE)
    text, teacher = read_text(recipe, source, tmp_path), load_model(source.folder)
    for number, candidate in enumerate(found["candidates"][:2]):
        cut = Cut(
            source=source, scores=scores, target=HybridShape(**candidate["shape"]), layers=tuple(candidate["layers"])
        )
        output = tmp_path / str(number) / CHECKPOINT_FOLDER
        pruned = prune_to(cut, output, section=prune_section(recipe), execution=Execution(seed=recipe.seed))
        on_disk = evaluate_text(load_model(pruned.folder), text.held_out_NT, teacher=teacher)
        assert candidate["repaired"]["kl"] == pytest.approx(on_disk.kl_to_teacher, rel=rel)


def test_a_recipe_that_does_not_repair_is_measured_with_the_defaults_of_a_repair(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path, ("search.choose=repaired",))
    section = candidate_repair(recipe)
    assert section is not None
    assert (section.samples, section.data, section.seq_len) == (128, recipe.score.data, recipe.score.seq_len)
    assert candidate_repair(load_recipe(recipe_path, ("search.choose=zero_shot", REPAIRED[-1]))) is None


@pytest.mark.parametrize("repair", ["{samples: 6}", "{samples: 3, seq_len: 24}", "{samples: 9, seq_len: 8}"])
@pytest.mark.parametrize("choose", ["search.choose=repaired", "search.choose=tournament"])
def test_no_held_out_sequence_stands_in_the_text_that_repairs_are_calibrated_on(
    tmp_path: Path, recipe_path: Path, choose: str, repair: str
) -> None:
    rng = np.random.default_rng(0)
    words = "\n---\n".join("".join(rng.choice(list("abcdefgh ijkl"), 40)) for _ in range(60))
    (recipe_path.parent / "text.txt").write_text(words)
    rounds = "search.tournament={tokens: [64], sequences: 3}"
    recipe = load_recipe(recipe_path, (choose, rounds, f"prune.repair={repair}"))
    source = open_checkpoint(Path(recipe.teacher))
    text, section = read_text(recipe, source, tmp_path), candidate_repair(recipe)
    assert section is not None
    calibrated = [int(token) for token in read_samples(section, source, seed=recipe.seed).token_ids.reshape(-1)]
    seen = {tuple(calibrated[start : start + 8]) for start in range(len(calibrated))}
    held_out = [[int(token) for token in row] for row in text.held_out_NT[:]]
    assert len(held_out) == 3
    assert not [row for row in held_out if tuple(row[4:12]) in seen]
    trained = [[int(token) for token in row] for row in text.train_NT[:]]
    assert len(trained) == 4
    assert not [row for row in held_out if row in trained]


def test_text_that_calibration_has_read_whole_is_compared_on_all_the_same(
    tmp_path: Path, recipe_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (recipe_path.parent / "text.txt").write_text("the same line " * 30)
    recipe = load_recipe(recipe_path, ("search.choose=repaired", "search.tournament.sequences=3"))
    source = open_checkpoint(Path(recipe.teacher))
    whole = read_text(recipe, source, tmp_path)
    assert len(whole.held_out_NT) == 3
    assert "held-out sequences stand in calibration text, which is short" in caplog.text


@pytest.mark.processes
def test_several_processes_give_what_one_gives_and_go_on_where_one_was_stopped(
    recipe_path: Path, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = search(recipe_path, begun("one", "score"))
    folder, measured = begun("several", "score"), []
    real = Bench.measure

    def stops(bench: Any, candidate: Any) -> Any:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(candidate)
        return real(bench, candidate)

    monkeypatch.setattr(Bench, "measure", stops)
    with pytest.raises(KeyboardInterrupt):
        search(recipe_path, folder)
    monkeypatch.undo()
    (state,) = folder.rglob(MEASURED_FILE)
    assert len(json.loads(state.read_text())["repaired"]) == 2
    again = search(recipe_path, folder, "search.processes=2")
    assert json.dumps(again, sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert not list(folder.rglob(STATE_FOLDER))


def test_more_processes_than_there_is_memory_for_are_refused_before_they_start(
    recipe_path: Path, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * memory.LIBRARIES_BYTES)
    with pytest.raises(ValueError, match=r"search.processes=3 needs about .* set at most 1") as raised:
        search(recipe_path, begun("run", "score"), "search.processes=3")
    assert "cpu has" in str(raised.value)


def test_free_memory_that_the_system_does_not_tell_refuses_nothing(
    recipe_path: Path, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    recipe, source = load_recipe(recipe_path, REPAIRED), open_checkpoint(recipe_path.parent / "teacher")
    memory.require_memory(recipe, source, (), 64)


@pytest.mark.slow
@pytest.mark.processes
def test_a_search_that_is_killed_loses_what_is_in_flight_alone_and_ends_the_same(
    recipe_path: Path, begun: Begun
) -> None:
    expected, folder = search(recipe_path, begun("whole", "score")), begun("killed", "score")
    words = [word for override in (*REPAIRED, "search.processes=2") for word in ("--set", override)]
    command = [sys.executable, "-c", PROGRAM, "search", str(recipe_path), "--output", str(folder), *words]
    kept = 0
    for wanted in (1, 3):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while kept < wanted and process.poll() is None:
            kept = max([0, *(len(json.loads(path.read_text())["repaired"]) for path in folder.rglob(MEASURED_FILE))])
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        (state,) = folder.rglob(MEASURED_FILE)
        assert len(json.loads(state.read_text())["repaired"]) >= kept
    again = search(recipe_path, folder, "search.processes=2")
    assert json.dumps(again, sort_keys=True) == json.dumps(expected, sort_keys=True)
