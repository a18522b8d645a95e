"""Figures of scores: a heat map of each axis, and the depth score of each block."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe-Ito colors by letter of a kind of block, which differ within each family; `Family.block_kinds` names the kinds.
KIND_COLORS = {"M": "#0072B2", "-": "#E69F00", "*": "#009E73", "E": "#CC79A7", "T": "#0072B2"}
KIND_COLORS |= {"S": "#56B4E9", "N": "#D55E00", "H": "#009E73", "G": "#E69F00", "X": "#CC79A7"}
AXIS_TITLES = {
    "hidden_size": "hidden channels",
    "intermediate_size": "FFN neurons",
    "mamba_num_heads": "Mamba heads",
    "mamba_head_dim": "channels of a Mamba head, over all heads",
    "num_attention_heads": "attention heads",
    "linear_num_value_heads": "value heads of gated DeltaNet",
    "n_routed_experts": "routed experts",
    "moe_intermediate_size": "neurons of routed experts, best first, mean over experts",
    "moe_shared_expert_intermediate_size": "neurons of shared experts",
}
ROW_UNITS = 128  # a single row longer than this is folded

Values = npt.NDArray[np.float64]


def draw_scores(
    rows: Mapping[str, Mapping[str, Values]],
    depth_L: Values,
    pattern: str,
    folder: Path,
    *,
    kinds: Mapping[str, str],
) -> None:
    """Draws `AXIS.png` for each axis, and `depth.png`.

    Args:
        rows: Axis -> label of a row -> the scores of its units.
        depth_L: One score a block.
        pattern: The blocks' letters.
        folder: Where to write.
        kinds: Letter -> what such blocks are, as their family says.
    """
    for axis, scores in rows.items():
        draw_heatmap(scores, AXIS_TITLES[axis], folder / f"{axis}.png")
    draw_depth(depth_L, pattern, folder / "depth.png", kinds=kinds)


def draw_heatmap(scores: Mapping[str, Values], title: str, path: Path) -> None:
    """Draws one axis: a row for each block, units in their order, color the score over the row's median (log scale).

    Beside it every row's scores from the largest to the smallest: the steeper, the more there is to choose.
    """
    table = np.stack(list(scores.values()))
    relative = np.log2(np.maximum(table, 1e-12) / np.maximum(np.median(table, axis=1, keepdims=True), 1e-12))
    shown, labels = (relative, list(scores)) if len(relative) > 1 else _fold(relative[0])
    figure = Figure(figsize=(13, 2.4 + 0.22 * len(shown)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    limit = max(0.5, float(np.nanquantile(np.abs(relative), 0.95)))
    image = left.imshow(shown, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    left.set_yticks(range(len(labels)), labels, fontsize=8)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xlabel("unit")
    left.set_title(f"Importance of {title}")
    figure.colorbar(image, ax=left, label="log2(score / row's median)", pad=0.01, extend="both")
    for row in relative:
        right.plot(np.linspace(0, 100, len(row)), np.sort(row)[::-1], color="#0072B2", alpha=0.5, linewidth=1)
    right.set_xlabel("% of units, best first")
    right.set_ylabel("log2(score / median)")
    right.set_title("Spread")
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def draw_depth(depth_L: Values, pattern: str, path: Path, *, kinds: Mapping[str, str]) -> None:
    """Draws one bar a block, colored by kind; blocks that a greedy search removed have negative scores."""
    figure = Figure(figsize=(max(6.0, 0.2 * len(pattern) + 2), 3.6), layout="constrained")
    axes = figure.subplots()
    for kind, name in kinds.items():
        layers = [layer for layer, letter in enumerate(pattern) if letter == kind]
        if layers:
            axes.bar(layers, depth_L[layers], color=KIND_COLORS[kind], label=name)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(pattern)), [f"{kind}\n{layer}" for layer, kind in enumerate(pattern)], fontsize=8)
    axes.set_xlabel("block")
    axes.set_ylabel("depth score")
    positive = depth_L[depth_L > 0]
    if (depth_L >= 0).all() and len(positive) and positive.max() > 30 * positive.min():
        axes.set_yscale("log")
    axes.set_title("Importance of blocks: the lowest are removed first")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _fold(row: Values) -> tuple[Values, list[str]]:
    count = -(-len(row) // ROW_UNITS)
    folded = np.full(count * ROW_UNITS, np.nan)
    folded[: len(row)] = row
    return folded.reshape(count, ROW_UNITS), [f"from {start}" for start in range(0, count * ROW_UNITS, ROW_UNITS)]
