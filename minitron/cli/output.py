"""What a command prints: tables and lines for a person, or one JSON object, on stdout."""

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from rich.table import Table

PLAIN_WIDTH = 120  # columns of a table that goes into a file or a pipe

Shown = Union["Table", str]


def is_first_process() -> bool:
    """Whether this is the process that speaks, alone or the first one of a launch."""
    return os.environ.get("RANK", "0") == "0"


def print_result(args: argparse.Namespace, result: Mapping[str, object], *shown: Shown) -> None:
    """Prints a command's result as the user asked for it; of several processes only the first one prints."""
    if not is_first_process():
        return
    if args.json:
        print(json.dumps(_valid(result), allow_nan=False))
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    for item in shown:
        console.print(item, soft_wrap=isinstance(item, str), markup=False)


def _valid(value: object) -> object:
    """The value with null where a number has no spelling in JSON."""
    if isinstance(value, Mapping):
        return {key: _valid(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
