"""The repository's Markdown pages: their links, headings, inline code and code blocks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        ROOT / "examples/recipes/README.md",
        ROOT / ".github/PULL_REQUEST_TEMPLATE.md",
    ]
)
# Pages that exist on the built site alone, as docs/hooks.py names them.
GENERATED = {
    ROOT / "docs" / name for name in re.findall(r'"(reference/\w+\.md)":', (ROOT / "docs/hooks.py").read_text())
}

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
INLINE_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
REPOSITORY_PATH = re.compile(
    r"(?<![\w/.-])((?:minitron|docs|examples|tests|benchmarks|\.ci|\.github)/[\w./*-]*)(?::(\w+))?"
)
MODULE = re.compile(r"(?<![\w/.-])minitron(?:\.\w+)+")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block: its language and its text."""

    language: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    """The fenced code blocks of a page, in order."""
    for indent, language, text in FENCE.findall(page):
        yield Block(language, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE))


def prose(page: str) -> str:
    """A page without its fenced code blocks."""
    return FENCE.sub("", page)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings."""
    return {
        re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text.lower()).strip()) for text in HEADING.findall(prose(page))
    }


def broken_links(path: Path, page: str) -> list[str]:
    """The links of a page within the repository whose file or anchor is not there."""
    broken = []
    for link in LINK.findall(INLINE_CODE.sub("", prose(page))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if target in GENERATED and not anchor:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


def missing_paths(page: str) -> list[str]:
    """The repository paths in a page's inline code that are not there, and the names that their files lack."""
    missing = []
    for code in INLINE_CODE.findall(prose(page)):
        for name, member in REPOSITORY_PATH.findall(code):
            found = sorted(ROOT.glob(name.rstrip("/.")))
            defined = not member or any(_defines(path, member) for path in found)
            if not (found and defined) and not _is_made_later(name):
                missing.append(f"{name}:{member}" if member else name)
        missing += [name for name in MODULE.findall(code) if not _resolves(name)]
    return missing


def _is_made_later(name: str) -> bool:
    return "NAME" in name or name.startswith("examples/quickstart/data")


def _defines(path: Path, name: str) -> bool:
    return (
        re.search(rf"^ *(?:def|class) {name}\b|^{name}\b.*=", path.read_text(encoding="utf-8"), re.MULTILINE)
        is not None
    )


def _resolves(name: str) -> bool:
    path, parts = ROOT, name.split(".")
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    is_module = bool(parts) and (path / f"{parts[0]}.py").is_file()
    path /= f"{parts.pop(0)}.py" if is_module else "__init__.py"
    return not parts or f'"{parts[0]}"' in path.read_text(encoding="utf-8") or _defines(path, parts[0])
