"""Draws docs/images/quickstart.svg from a finished run: `python docs/images/quickstart.py runs/quickstart`."""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

INK, QUIET, BUDGET = "#1f2933", "#7b8794", "#c2410c"
PARTS = {
    "weights_bytes": ("weights", "#0f766e"),
    "kv_bytes": ("KV cache", "#eab308"),
    "ssm_bytes": ("Mamba state", "#64748b"),
}
MIB = 2**20


def draw(run: Path, output: Path) -> None:
    """Bytes against the budget, and KL to the teacher, as a small picture on a card of its own color."""
    candidates = json.loads((run / "search" / "candidates.json").read_text())
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    mpl.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "minitron", "font.size": 11, "text.color": INK})
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.1), facecolor="#f8fafc", layout="constrained")
    memories = {"teacher": candidates["teacher"]["memory"], "student": candidates["candidates"][0]["memory"]}
    _draw_memory(left, memories, candidates["budget_bytes"])
    _draw_distance(right, metrics)
    for axes in (left, right):
        axes.set_facecolor("#f8fafc")
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
        axes.tick_params(length=0, colors=INK)
    figure.savefig(output, facecolor=figure.get_facecolor(), metadata={"Date": None})


def _draw_memory(axes: plt.Axes, memories: dict[str, dict[str, int]], budget_bytes: int) -> None:
    names = list(memories)[::-1]
    start = [0.0] * len(names)
    for part, (label, color) in PARTS.items():
        widths = [memories[name][part] / MIB for name in names]
        axes.barh(names, widths, left=start, color=color, label=label, height=0.5)
        start = [before + width for before, width in zip(start, widths, strict=True)]
    for row, name in enumerate(names):
        total = memories[name]["total_bytes"] / MIB
        axes.text(max(total, budget_bytes / MIB) + 0.06, row, f"{total:.2f} MiB", va="center")
    axes.axvline(budget_bytes / MIB, color=BUDGET, linewidth=1.5, linestyle="--")
    axes.text(budget_bytes / MIB + 0.06, 0.5, "budget", color=BUDGET, va="center")
    axes.set(title="Memory at 2,048 tokens", xlim=(0, max(start) * 1.22), ylim=(-0.45, 1.45), xticks=[])
    axes.legend(ncols=3, frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.45, 0.02), handlelength=1)


def _draw_distance(axes: plt.Axes, metrics: dict[str, dict[str, float]]) -> None:
    names = ["distilled", "pruned"]
    values = [metrics[name]["kl_to_teacher"] for name in names]
    axes.barh(names, values, color=["#0f766e", QUIET], height=0.5)
    for row, name in enumerate(names):
        solved = metrics[name]["exact_match"]
        axes.text(values[row] + max(values) * 0.02, row, f"{values[row]:.3f}, task {solved:.0%}", va="center")
    axes.set(title="KL to the teacher, nats a token", xlim=(0, max(values) * 1.5), ylim=(-0.45, 1.45), xticks=[])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".svg"))
    arguments = parser.parse_args()
    draw(arguments.run, arguments.output)
