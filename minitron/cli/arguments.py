"""Types and groups of arguments that several commands share."""

import argparse
import math
from pathlib import Path

CHECKPOINT_HELP = "Hugging Face checkpoint folder, or owner/name[@revision] on the hub"
CONFIG_HELP = "checkpoint folder, config.json, or owner/name[@revision] on the hub"


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def seed(text: str) -> int:
    """A whole number that numpy takes as a seed."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be between 0 and {2**32 - 1}, got {text}")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return value


def non_negative_float(text: str) -> float:
    """A finite number of at least 0."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number that is not negative, got {text}")
    return value


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Adds the checkpoint that a command works on."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT_HELP)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the folder that a command writes."""
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new or empty folder to write")


def add_data(parser: argparse.ArgumentParser, what: str, *, option: str = "--data", required: bool = False) -> None:
    """Adds an option that names sources of text, each time one of a blend."""
    parser.add_argument(
        option,
        type=source,
        action="append",
        required=required,
        metavar="DATA",
        help=f"{what}: a file, pattern, folder or owner/name, or {{path: chat.jsonl, loss: all}}; may be repeated",
    )


def source(text: str) -> dict[str, object]:
    """A source of text as a recipe has it: a path, or YAML of its settings.

    >>> source("text.jsonl"), source("{path: chat.jsonl, weight: 0.7}")
    ({'path': 'text.jsonl'}, {'path': 'chat.jsonl', 'weight': 0.7})
    """
    if not text.startswith("{"):
        return {"path": text}
    from minitron.artifacts.yaml_text import YamlFaultError, parse_yaml

    try:
        found = parse_yaml(text)
    except YamlFaultError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("path"), str):
        raise argparse.ArgumentTypeError(
            f"must be a path, or settings as in {{path: chat.jsonl, loss: all}}, got {text}"
        )
    return found


def add_overrides(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--set KEY=VALUE`."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=what)


def add_device(
    parser: argparse.ArgumentParser, what: str = "device to compute on, auto: cuda where there is one (cpu)"
) -> None:
    """Adds `--device`."""
    parser.add_argument("--device", default="cpu", help=what)


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Adds `--seed`."""
    parser.add_argument("--seed", type=seed, default=0, help="seed of the order of the text (0)")
