"""What the pages name is there: links, anchors, files of the repository, modules."""

import configparser
from pathlib import Path

import pytest
import yaml

from tests.support.pages import GENERATED, PAGES, ROOT, anchors, broken_links, missing_paths

README_BYTES = 9 * 1024
# A changelog names what is gone.
OF_TODAY = [path for path in PAGES if path.name != "CHANGELOG.md"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_within_the_repository_resolves(path: Path) -> None:
    assert not broken_links(path, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", OF_TODAY, ids=name_of)
def test_every_file_and_module_that_is_named_exists(path: Path) -> None:
    assert not missing_paths(path.read_text(encoding="utf-8"))


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= README_BYTES


def test_pages_that_others_link_to_stay_where_they_are() -> None:
    assert "header" in anchors((ROOT / "docs/teacher-cache.md").read_text())
    assert "commands" in anchors((ROOT / "docs/training-at-scale.md").read_text())


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = {*ROOT.glob("docs/**/*.md"), *GENERATED}
    assert len(GENERATED) == 4
    assert not [path for path in pages if str(path.relative_to(ROOT / "docs")) not in navigation]


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs/decisions"
    index = (folder / "README.md").read_text()
    assert not [path.name for path in folder.glob("0*.md") if f"({path.name})" not in index]


@pytest.mark.parametrize("link", ["gone.md", "README.md#gone", "#gone", "docs/reference/gone.md"])
def test_a_broken_link_is_found(link: str) -> None:
    page = f"# Here\n\n[fine](#here), [fine](README.md#results), [broken]({link})\n"
    assert broken_links(ROOT / "CHANGELOG.md", page.replace("#here", "#unreleased")) == [link]


@pytest.mark.parametrize(
    "code",
    ["minitron/gone.py", "minitron/errors.py:Gone", "minitron.gone", "minitron.errors.Gone", "tests/*/gone_*.py"],
)
def test_a_path_that_is_gone_is_found(code: str) -> None:
    page = f"`minitron/errors.py:MinitronError`, `minitron.errors`, `minitron.run`, `tests/*/`, `{code}`"
    assert missing_paths(page) == [code]


def test_the_citation_names_this_version_and_the_papers_of_the_method() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == setup["metadata"]["version"]
    assert citation["license"] == setup["metadata"]["license"]
    method = (ROOT / "docs/method.md").read_text()
    assert len(citation["references"]) == 5
    for paper in citation["references"]:
        assert f"[{paper['identifiers'][0]['value'].removeprefix('arXiv:')}]({paper['url']})" in method
