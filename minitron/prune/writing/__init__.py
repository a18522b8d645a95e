"""Cuts -> files: planned whole, then written at the speed of the disk, resumable."""

from minitron.prune.writing.journal import CONFIG_FILE, is_unfinished, resumable
from minitron.prune.writing.layout import Layout, plan_layout
from minitron.prune.writing.stream import write_layout

__all__ = [
    "CONFIG_FILE",
    "Layout",
    "is_unfinished",
    "plan_layout",
    "resumable",
    "write_layout",
]
