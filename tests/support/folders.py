"""What a folder holds."""

from pathlib import Path

from minitron.checkpoints.checkpoint import open_checkpoint

Contents = dict[str, bytes]


def contents(folder: Path) -> Contents:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def opens(folder: Path) -> bool:
    try:
        open_checkpoint(folder)
    except ValueError:
        return False
    return True
