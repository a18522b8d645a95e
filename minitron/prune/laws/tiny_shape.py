"""Tiny shapes of a family whose dims are all distinct, so that an axis taken for another one is seen."""

from collections.abc import Mapping, Sequence

import numpy as np

from minitron.errors import ShapeError
from minitron.models.families import FAMILIES, Family
from minitron.models.shape import HybridShape
from minitron.prune.laws.random_keep import smaller_sizes

# Attention heads are a multiple of this, so that a quarter of their channels can turn in pairs.
HEAD_DIM_UNIT = 8
TRIES = 20_000
# Sizes that are small whole numbers in any model, or that say how many of others are used: [least, beyond).
RANGES: Mapping[str, tuple[int, int]] = {
    "vocab_size": (40, 90),
    "hidden_size": (12, 41),
    "num_key_value_heads": (2, 5),
    "num_attention_heads": (4, 13),
    "n_groups": (2, 4),
    "mamba_num_heads": (4, 13),
    "mamba_head_dim": (3, 12),
    "conv_kernel": (2, 6),
    "linear_num_key_heads": (2, 4),
    "linear_num_value_heads": (4, 10),
    "linear_conv_kernel_dim": (2, 6),
    "num_experts_per_tok": (2, 4),
    "n_group": (1, 4),
    "n_routed_experts": (5, 16),
    "sliding_window": (3, 6),
}
WIDTHS = (5, 48)
# Not dims of tensors: they may equal a dim.
NO_DIMS = ("topk_group", "n_group", "num_experts_per_tok", "sliding_window", "tie_word_embeddings")


def tiny_shape(model_type: str, pattern: str, *, seed: int, like: HybridShape | None = None) -> HybridShape:
    """A tiny shape of a family, with these blocks.

    Args:
        model_type: The family.
        pattern: Letters of its blocks.
        seed: Fixes the sizes.
        like: A model whose switches, absent sizes and single groups it has; a family's every size is there when None.

    Raises:
        ShapeError: No such shape was found.
    """
    family, rng = FAMILIES[model_type], np.random.default_rng(seed)
    for _ in range(TRIES):
        sizes = _sizes(family, pattern, rng, like)
        if _are_distinct(family, pattern, sizes):
            try:
                shape = HybridShape(model_type=model_type, hybrid_override_pattern=pattern, block_widths=(), **sizes)
            except ShapeError:
                continue
            if all(shape.sizes[axis.name] < 2 or smaller_sizes(shape, axis) for axis in family.axes.values()):
                return shape
    raise ShapeError(f"a tiny {model_type} with distinct dims must be found among {TRIES}, none was")


def short_pattern(pattern: str) -> str:
    """Blocks that show every pair of neighbors of a pattern's kinds, and each kind twice.

    >>> short_pattern("SSSSTSSSST")
    'STST'
    """
    kinds = list(dict.fromkeys(pattern))
    return "".join(kinds) * 2


def _sizes(family: Family, pattern: str, rng: np.random.Generator, like: HybridShape | None) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name in family.config_keys:
        known = None if like is None else like.sizes[name]
        if name in family.switches:
            sizes[name] = int(rng.integers(2)) if known is None else known
        elif name == "sliding_window" and known is None and not any(family.keeps[kind] == "window" for kind in pattern):
            sizes[name] = 0
        elif known == 0 or (known == 1 and name in ("n_groups", "n_group", "num_key_value_heads")):
            sizes[name] = known
        elif name == "head_dim":
            sizes[name] = HEAD_DIM_UNIT * int(rng.integers(1, 4))
        else:
            sizes[name] = int(rng.integers(*RANGES.get(name, WIDTHS)))
    for axis in family.axes.values():  # whole groups, at least two units in each
        groups = sizes.get(axis.grouped_by or "", 0)
        if groups and sizes[axis.name]:
            sizes[axis.name] = groups * max(2, round(sizes[axis.name] / groups))
    if sizes.get("topk_group"):
        sizes["topk_group"] = min(2, sizes["n_group"])
    for rule in family.multiples:
        # Of two sizes that go together the first of the other product gives way.
        if len(rule.sizes) == 1 and len(rule.of) == 1 and sizes[rule.sizes[0]] and sizes[rule.of[0]]:
            unit = sizes[rule.of[0]]
            sizes[rule.sizes[0]] = unit * max(2, round(sizes[rule.sizes[0]] / unit))
        elif sizes[rule.sizes[0]]:  # twice as large, so that either side can be halved
            sizes[rule.of[0]] = sizes[rule.sizes[0]] * sizes[rule.sizes[1]] // 2
    return sizes


def _are_distinct(family: Family, pattern: str, sizes: Mapping[str, int]) -> bool:
    dims: Sequence[int] = [size for name, size in sizes.items() if size > 1 and name not in NO_DIMS]
    inner = [
        sizes.get("num_attention_heads", 0) * sizes.get("head_dim", 0),
        sizes.get("num_key_value_heads", 0) * sizes.get("head_dim", 0),
        sizes.get("linear_num_value_heads", 0) * sizes.get("linear_value_head_dim", 0),
        sizes.get("linear_num_key_heads", 0) * sizes.get("linear_key_head_dim", 0),
    ]
    return len(set(dims)) == len(dims) and sizes["hidden_size"] not in inner
