"""The package stays one in which a newcomer finds things: small files, small functions, no circle of imports."""

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import grimp
import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "minitron"
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_FILES, MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 20, 250, 60, 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Function))


def parameters(function: Function) -> list[str]:
    arguments = function.args
    found = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [one.arg for one in found if one is not None and one.arg not in ("self", "cls")]


def test_no_folder_holds_more_than_twenty_files() -> None:
    assert {
        folder: count for folder, count in Counter(path.parent for path in MODULES).items() if count > MOST_FILES
    } == {}


def test_no_module_is_long() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}


@pytest.mark.parametrize(
    ("measure", "most"),
    [
        (lambda function: (function.end_lineno or 0) - function.lineno + 1, MOST_FUNCTION_LINES),
        (lambda function: len(parameters(function)), MOST_PARAMETERS),
    ],
    ids=["lines", "parameters"],
)
def test_no_function_is_large(measure: Callable[[Function], int], most: int) -> None:
    sizes = {(str(path.relative_to(ROOT)), one.name): measure(one) for path in MODULES for one in functions(path)}
    assert {where: size for where, size in sizes.items() if size > most} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("minitron", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    while leaves := [module for module, imported in imports.items() if not imported & imports.keys()]:
        for module in leaves:
            del imports[module]
    assert not imports
