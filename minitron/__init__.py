"""Minitron: prunes hybrid Mamba-2/attention/MLP language models to a memory budget and distills them back."""

from importlib.metadata import version

__version__ = version("minitron")
__all__ = ["__version__"]
