"""Shapes as users give them: a JSON object of Hugging Face's names, or a file of one. Loads no torch."""

from collections.abc import Mapping
from pathlib import Path

from minitron.artifacts.json_files import JsonFaultError, parse_json
from minitron.checkpoints.checkpoint import Checkpoint
from minitron.errors import ShapeError
from minitron.importance.scores import Scores
from minitron.importance.selection import top_blocks
from minitron.models.quotas import BlockQuotas
from minitron.models.shape import HybridShape


def read_shape(shape: str | Path | Mapping[str, object]) -> dict[str, object]:
    """Sizes by name from a mapping, a JSON text or a file of it.

    Raises:
        ShapeError: It is not a JSON object.
    """
    if isinstance(shape, Mapping):
        return dict(shape)
    text = str(shape)
    try:
        if not text.lstrip().startswith("{") and Path(text).is_file():
            text = Path(text).read_text(encoding="utf-8")
        sizes = parse_json(text)
    except (JsonFaultError, UnicodeDecodeError) as error:
        raise ShapeError(f"a shape must be a JSON object or a file of one, got {str(shape)!r}") from error
    if not isinstance(sizes, dict):
        raise ShapeError(f"a shape must be a JSON object, got {str(shape)!r}")
    return dict(sizes)


def find_target(source: Checkpoint, scores: Scores, sizes: Mapping[str, object]) -> tuple[HybridShape, tuple[int, ...]]:
    """The shape that a checkpoint is cut to, and the indices of the blocks it keeps.

    Raises:
        ShapeError: A size is malformed, or cannot be reached.
    """
    widths, depth = split_depth(sizes)
    layers = kept_layers(depth, scores, source)
    return source.shape.resized(layers=layers, **_widths(source.shape, widths)), layers


def _widths(source: HybridShape, given: Mapping[str, int]) -> dict[str, int]:
    """Sizes by minitron's names, of which a configuration's own are taken, too; whole groups where groups go."""
    family = source.family
    return family.with_units({family.axis_named(name): size for name, size in given.items()}, source.sizes)


def split_depth(sizes: Mapping[str, object]) -> tuple[dict[str, int], list[int] | int | None]:
    """The widths of a shape, and its depth: kept block indices, a number of blocks, or None where all stay.

    Raises:
        ShapeError: A size is not a whole number, or `layers` and `num_hidden_layers` disagree.
    """
    widths = {name: size for name, size in sizes.items() if name not in ("layers", "num_hidden_layers")}
    for name, size in widths.items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise ShapeError(f"{name} must be a positive whole number, got {size!r}")
    layers, count = sizes.get("layers"), sizes.get("num_hidden_layers")
    if layers is not None:
        if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
            raise ShapeError(f"layers must be a list of block indices, got {layers!r}")
        if count not in (None, len(layers)):
            raise ShapeError(f"layers and num_hidden_layers must agree, got {len(layers)} blocks and {count!r}")
        return widths, layers  # type: ignore[return-value]
    if count is not None and (not isinstance(count, int) or isinstance(count, bool)):
        raise ShapeError(f"num_hidden_layers must be a whole number, got {count!r}")
    return widths, count  # type: ignore[return-value]


def kept_layers(depth: list[int] | int | None, scores: Scores, source: Checkpoint) -> tuple[int, ...]:
    """Kept block indices: those that were named, the best of a number of them, or all.

    Raises:
        ShapeError: So few blocks cannot be kept.
    """
    pattern = source.shape.hybrid_override_pattern
    if isinstance(depth, list):
        return tuple(depth)
    if depth is None:
        return tuple(range(len(pattern)))
    quotas = BlockQuotas(at_least=dict.fromkeys(source.shape.family.kinds_that_keep("kv"), 1))
    return top_blocks(scores.depth, pattern, depth, quotas=quotas)
