"""The page of a run says what its files say, and of what is not there why it is not shown."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import minitron
from minitron.api.publishing import report as api_report
from minitron.cli.main import main
from minitron.pipeline.run_report.layout import lay_out
from minitron.pipeline.run_report.results import FINISHED, OUTDATED, WITHOUT, open_results
from minitron.pipeline.runner import run_pipeline
from minitron.recipe.load import load_recipe
from minitron.report.page.parts import Answer, Answers, Code, Diagram, Figure, Note, Page, Section, Table
from tests.pipeline.conftest import WholeRun
from tests.support.chromium import browser, find_chromium
from tests.support.commands import fail
from tests.support.recipes import TWO_STEPS, write_tiny_recipe

MIB = 2**20
ALL_STAGES = ["score", "search", "prune", "distill", "evaluate", "report"]


@pytest.fixture(scope="module")
def reported(whole_run: WholeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the whole run, with the recipe that `minitron run` writes."""
    folder = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(whole_run.folder, folder)
    return with_recipe(folder, whole_run.recipe_path)


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that carries the charts' library need not be there."""
    monkeypatch.setattr(api_report, "library", lambda: "window.vegaEmbed = () => Promise.resolve();")


def with_recipe(folder: Path, path: Path, *overrides: str) -> Path:
    recipe = load_recipe(path, overrides).model_dump(mode="json")
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder


def page_of(folder: Path) -> Page:
    return lay_out(open_results(folder), lambda config, shape: {"vllm 1.0": (), "mlx 2.0": ("it must be larger",)})


def section(page: Page, name: str) -> Section:
    return next(one for one in page.sections if one.name == name)


def figure(page: Page, name: str) -> Figure:
    return next(part for one in page.sections for part in one.parts if isinstance(part, Figure) and part.name == name)


def notes(page: Page, name: str) -> list[str]:
    return [part.text for part in section(page, name).parts if isinstance(part, Note) and part.missing]


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def rows(table: Table) -> dict[str, dict[str, str]]:
    return {row[0]: dict(zip(table.columns[1:], row[1:], strict=True)) for row in table.rows}


def verdict_table(page: Page) -> dict[str, dict[str, str]]:
    return rows(next(part for part in section(page, "verdict").parts if isinstance(part, Table)))


def all_answers(page: Page) -> list[Answer]:
    return [one for part in section(page, "verdict").parts if isinstance(part, Answers) for one in part.answers]


def answers(page: Page) -> list[str]:
    return [one.answer for one in all_answers(page)]


def test_the_first_table_has_the_numbers_of_the_metrics(reported: Path) -> None:
    metrics, table = read(reported, "evaluate/metrics.json"), verdict_table(page_of(reported))
    budget = read(reported, "search/candidates.json")["budget_bytes"]
    assert list(table["parameters"]) == ["teacher", "pruned", "distilled"]
    for model, found in metrics.items():
        total = found["memory"]["total_bytes"]
        assert table["parameters"][model] == f"{found['params']:,}"
        assert table["memory at 64 tokens"][model] == f"{total / MIB:.3f} MiB"
        assert table[f"budget {budget / MIB:.3f} MiB"][model] == ("fits" if total <= budget else "too large")
        assert table["held-out loss, nats a token"][model] == f"{found['loss']:.4f}"
        assert table["KL to the teacher, nats a token"][model] == f"{found['kl_to_teacher']:.4f}"
        assert table["sums, exact match"][model] == f"{found['exact_match']:.1%}"
        assert table["output tokens/s, measured"][model] == f"{found['speed']['tokens_per_s']['median']:,.0f}"
    assert metrics["teacher"]["memory"]["total_bytes"] > budget >= metrics["distilled"]["memory"]["total_bytes"]


def test_the_answers_are_those_of_the_distilled_student(reported: Path) -> None:
    student = read(reported, "evaluate/metrics.json")["distilled"]
    assert answers(page_of(reported)) == [
        "yes",
        f"KL {student['kl_to_teacher']:.4f} nats a token",
        f"{student['speed']['tokens_per_s']['median']:,.0f} tokens/s",
    ]


def test_a_student_above_the_budget_does_not_fit(reported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reported, folder)
    header = read(folder, "search/artifact.json")
    header["inputs"]["settings"]["budget"]["memory_bytes"] = 1000
    (folder / "search" / "artifact.json").write_text(json.dumps(header))
    page = page_of(folder)
    assert answers(page)[0] == "no"
    assert any("memory_bytes was 1000" in line for line in notes(page, "verdict"))


def test_memory_is_that_of_a_count_by_hand_at_every_context(reported: Path) -> None:
    # The tiny hybrid: M-*MM-*-; 2 attention blocks with 3 heads of keys and of values, 10 wide, in bf16.
    found = figure(page_of(reported), "memory-by-context")
    teacher = {row[0]: row for row in found.table.rows if row[1] == "teacher"}
    kv = found.table.columns.index("KV cache")
    assert list(teacher) == ["64", "8,192", "16,384", "32,768", "65,536", "131,072", "262,144", "524,288"]
    for context, row in teacher.items():
        tokens = int(context.replace(",", ""))
        assert row[kv] == f"{2 * 2 * 3 * 10 * 2 * tokens / MIB:.3f} MiB"
    metrics = read(reported, "evaluate/metrics.json")
    drawn: Any = figure(page_of(reported), "memory").spec
    for model, name in (("teacher", "teacher"), ("student", "distilled")):
        sizes = [value["size"] for value in drawn["data"]["values"] if value["model"] == model]
        assert sum(sizes) == pytest.approx(metrics[name]["memory"]["total_bytes"] / MIB)


def test_candidates_and_cloud_are_those_of_the_search(reported: Path) -> None:
    search, page = read(reported, "search/candidates.json"), page_of(reported)
    table = figure(page, "cloud").table
    kinds = [row[0] for row in table.rows]
    assert kinds.count("cloud") == search["num_shapes"] == 18
    assert sum(int(row[5]) for row in table.rows if row[0] == "cloud") == search["num_feasible"]
    first = search["candidates"][0]
    assert table.rows[0][0] == "candidate 1"
    assert table.rows[0][2] == f"{first['memory']['total_bytes'] / MIB:.3f} MiB"
    assert table.rows[0][3] == f"{first['retained']:.2%}"
    spec: Any = figure(page, "cloud").spec
    marks = [layer["data"]["values"] for layer in spec["layer"] if "data" in layer]
    assert [one["role"] for one in marks[-1]] == ["chosen"] + ["candidate"] * (len(search["candidates"]) - 1)
    assert marks[-1][0]["kept"] == first["retained"]


def test_maps_show_which_units_the_plan_keeps(reported: Path) -> None:
    page = page_of(reported)
    with safe_open(reported / "prune" / "prune.plan", framework="np") as file:
        layers = json.loads(file.metadata()["minitron"])["layers"]
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    found = rows(figure(page, "importance-mamba-num-heads").table)
    assert list(found) == ["block 0", "block 3", "block 4"]
    for block, row in found.items():
        layer = int(block.split()[1])
        cells = [row[f"cell {place}"] for place in range(1, 9)]
        units = [place for place, cell in enumerate(cells) if not cell.startswith("(")]
        every = np.arange(8) if layer in layers else np.array([], dtype=int)
        assert units == kept.get(f"mamba_num_heads@{layer}", every).tolist()
        assert row["kept"] == str(len(units))
    (hidden,) = rows(figure(page, "importance-hidden-size").table).values()
    units = [unit for unit in range(22) if not hidden[f"cell {unit + 1}"].startswith("(")]
    assert units == kept["hidden_size@"].tolist()
    assert len(units) < 22


def test_blocks_that_the_plan_leaves_out_are_struck_out(reported: Path) -> None:
    with safe_open(reported / "prune" / "prune.plan", framework="np") as file:
        layers = json.loads(file.metadata()["minitron"])["layers"]
    diagram = next(part for part in section(page_of(reported), "blocks").parts if isinstance(part, Diagram))
    assert "".join(block.letter for block in diagram.blocks) == "M-*MM-*-"
    assert [number for number, block in enumerate(diagram.blocks) if block.kept] == layers


def test_curves_are_those_of_the_training_record(reported: Path) -> None:
    record = read(reported, "distill/record.json")
    table = figure(page_of(reported), "curve").table
    found = [(int(row[1].replace(",", "")), float(row[2])) for row in table.rows if row[0] == "training text"]
    assert found == [(tokens, pytest.approx(loss, abs=1e-5)) for tokens, loss in record["curve"]]


def test_readers_commands_and_lineage_are_shown(reported: Path) -> None:
    page = page_of(reported)
    (table,) = section(page, "readers").parts
    assert isinstance(table, Table)
    assert table.rows == (("vllm 1.0", "takes it", ""), ("mlx 2.0", "refuses it", "it must be larger"))
    commands = [part.text for part in section(page, "verdict").parts if isinstance(part, Code)]
    assert len(commands) == 3
    assert commands[0] == f"vllm serve {reported / 'distill' / 'checkpoint'} --max-model-len 64"
    assert all(str(reported / "distill" / "checkpoint") in text for text in commands)
    stages = rows(next(part for part in section(page, "provenance").parts if isinstance(part, Table)))
    for name in ALL_STAGES:
        assert stages[name]["SHA-256 of its inputs"] == read(reported, f"{name}/artifact.json")["inputs_hash"]


@pytest.mark.parametrize(
    ("last", "lacking"),
    [
        ("score", {"shapes", "blocks", "curves", "readers", "provenance", "verdict"}),
        ("search", {"curves", "provenance", "verdict"}),
        ("prune", {"curves", "verdict"}),
        ("distill", {"curves", "verdict"}),
    ],
)
def test_what_a_stopped_run_lacks_is_said_and_not_made_up(
    begun: Callable[[str, str], Path], whole_run: WholeRun, last: str, lacking: set[str]
) -> None:
    page = page_of(with_recipe(begun("run", last), whole_run.recipe_path))
    assert {one.name for one in page.sections if notes(page, one.name)} == lacking
    following = ALL_STAGES[ALL_STAGES.index(last) + 1]
    assert notes(page, "verdict")[0].startswith(f"The run has not come to {following};")
    assert answers(page)[1] == "not measured yet"


def test_a_result_of_an_earlier_search_is_not_shown(begun: Callable[[str, str], Path], whole_run: WholeRun) -> None:
    folder = begun("run", "distill")
    list(run_pipeline(load_recipe(whole_run.recipe_path, ("search.top_k=2",)), folder, last="search"))
    results = open_results(with_recipe(folder, whole_run.recipe_path, "search.top_k=2"))
    assert results.states == {
        "score": FINISHED, "search": FINISHED, "prune": OUTDATED, "distill": OUTDATED, "evaluate": WITHOUT,
        "report": WITHOUT,
    }  # fmt: skip


def test_a_run_whose_teacher_is_gone_shows_all_that_the_folder_has(reported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reported, folder)
    recipe = read(folder, "recipe.json")
    recipe["teacher"] = str(tmp_path / "gone")
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert page_of(folder).sections[1:6] == page_of(reported).sections[1:6]


def test_a_speed_that_was_not_measured_is_predicted_and_called_so(
    begun: Callable[[str, str], Path], whole_run: WholeRun
) -> None:
    changes = ("budget.memory_bytes=null", "budget.gpu=a10g", "budget.utilization=null", "search.choose=throughput")
    folder = begun("run", "score")
    list(run_pipeline(load_recipe(whole_run.recipe_path, changes), folder, last="prune"))
    page = page_of(with_recipe(folder, whole_run.recipe_path, *changes))
    search = read(folder, "search/candidates.json")
    assert answers(page)[2] == f"{search['candidates'][0]['tokens_per_s']:,.1f} tokens/s"
    table = verdict_table(page)["output tokens/s, predicted for a10g"]
    assert table["teacher"] == f"{search['teacher']['tokens_per_s']:,.1f}"
    assert table["pruned"] == f"{search['candidates'][0]['tokens_per_s']:,.1f}"
    assert any("predicted for a10g" in one.detail and "not measured" in one.detail for one in all_answers(page))
    commands = [part.text for part in section(page, "verdict").parts if isinstance(part, Code)]
    checkpoint = folder / "prune" / "checkpoint"
    fitted = minitron.fit(checkpoint, gpu="a10g", context=64, accounting="vllm")
    assert commands[0] == fitted["serve"] is not None


def test_blocks_are_the_teachers_where_two_cuts_took_some(two_steps: WholeRun, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(two_steps.folder, folder)
    page = page_of(with_recipe(folder, two_steps.recipe_path, *TWO_STEPS))
    with safe_open(folder / "depth" / "prune.plan", framework="np") as file:
        layers = json.loads(file.metadata()["minitron"])["layers"]
    assert len(layers) == 6
    diagram = next(part for part in section(page, "blocks").parts if isinstance(part, Diagram))
    assert "".join(block.letter for block in diagram.blocks) == "M-*MM-*-"
    assert [number for number, block in enumerate(diagram.blocks) if block.kept] == layers


@pytest.mark.usefixtures("without_library")
def test_the_command_writes_the_same_bytes_twice_and_says_where(
    reported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = [tmp_path / "one.html", tmp_path / "two.html"]
    for page in pages:
        assert main(["report", str(reported), "--output", str(page), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {
            "page": str(page), "bytes": page.stat().st_size, "missing": [],
        }  # fmt: skip
    assert pages[0].read_bytes() == pages[1].read_bytes()


@pytest.mark.usefixtures("without_library")
def test_a_run_that_goes_to_search_can_be_reported_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    minitron.run(write_tiny_recipe(tmp_path), output=folder, last="search")
    assert main(["report", str(folder)]) == 0
    assert "not shown, since the run has not come so far: prune, distill, evaluate" in capsys.readouterr().out
    assert (folder / "report.html").is_file()


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a run folder must hold recipe.json" in fail(capsys, "report", str(tmp_path))


def test_a_missing_library_is_one_line(
    reported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    assert "pip install 'minitron[report]'" in fail(capsys, "report", str(reported))


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium")
def test_a_browser_draws_every_chart_without_an_error_or_a_request(reported: Path, tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    page = minitron.report(reported, output=tmp_path / "page.html").page
    with browser(tmp_path / "profile") as tab:
        for width, dark in ((1400, False), (390, True)):
            tab.open(page, width=width, dark=dark)
            assert tab.errors == []
            assert tab.requests == [page.as_uri()]
            assert tab.value("document.documentElement.scrollWidth") <= width
            assert tab.value("document.querySelectorAll('.chart svg').length") == page.read_text().count("data-spec=")
