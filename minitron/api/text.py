"""Sources of text as a notebook gives them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from minitron.recipe.source import Source

# A path or a dataset's name, a source's settings, or several of them: a blend.
OneSource: TypeAlias = str | Path | Source | Mapping[str, object]
Text: TypeAlias = OneSource | Sequence[OneSource]


def source_settings(data: Text) -> list[dict[str, object]]:
    """Settings of each source, as a recipe's section takes them.

    >>> source_settings(["text.jsonl", {"path": "chat.jsonl", "loss": "all"}])
    [{'path': 'text.jsonl'}, {'path': 'chat.jsonl', 'loss': 'all'}]
    """
    several = [data] if isinstance(data, (str, Path, Source, Mapping)) else data
    return [_settings(one) for one in several]


def _settings(one: OneSource) -> dict[str, object]:
    if isinstance(one, Source):
        return one.model_dump()
    return dict(one) if isinstance(one, Mapping) else {"path": str(one)}
