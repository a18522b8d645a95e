"""One page about a run: does it fit, how good is it, how fast, and how to serve it. Loads no torch."""

from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.atomic import write_text
from minitron.artifacts.json_files import JsonObject
from minitron.estimate.serving.reader_names import NEWEST
from minitron.integrations.readers.check import check as check_config
from minitron.integrations.readers.check import find_reader
from minitron.models.shape import HybridShape
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.run_report.layout import lay_out
from minitron.pipeline.run_report.results import open_results
from minitron.report.page.charts import library
from minitron.report.page.render import render_page

# What it draws is not on the page.
PICTURE_STAGE = "report"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A page that was written.

    Attributes:
        page: The HTML file.
        bytes: Its size.
        missing: Stages of the recipe that it could not show, since they have no result yet.
    """

    page: Path
    bytes: int
    missing: tuple[str, ...]


def report(run: str | Path, *, output: str | Path | None = None) -> Reported:
    """Writes one HTML file about a run, which asks nothing of a network: verdict, memory, shapes, importance, curves.

    What the run has not come to is said in its place. The same run gives the same bytes.

    Args:
        run: Run folder, as `minitron run` writes it.
        output: HTML file to write, in place of an older one; `report.html` in the run folder when None.

    Returns:
        Where the page is, its size, and the stages that it could not show.

    Raises:
        MinitronError: It is no run folder, a result in it is not as this version writes it, or the extra `report` is
            not installed.

    Example:
        ```python
        found = minitron.report("runs/quickstart")
        print(found.page, found.missing)
        ```
    """
    results = open_results(Path(run))
    text = render_page(lay_out(results, _ask_readers), library=library())
    path = RunFolder(Path(run)).page if output is None else Path(output)
    write_text(path, text)
    return Reported(
        page=path,
        bytes=len(text.encode()),
        missing=tuple(name for name in results.states if not results.has(name) and name != PICTURE_STAGE),
    )


def _ask_readers(config: JsonObject, shape: HybridShape) -> dict[str, tuple[str, ...]]:
    """Newest reader with its version -> why it does not take a model."""
    return {
        f"{name} {find_reader(name).version}": tuple(str(refusal) for refusal in check_config(config, shape, name))
        for name in NEWEST
    }
