"""Figure of a search: candidates by bytes, quality and speed, and the rounds of a tournament."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minitron.search.record import CandidateRecord, SearchRecord
from minitron.units import GIB, MIB


def draw_candidates(search: SearchRecord, path: Path) -> None:
    """Draws a search's candidates as a PNG.

    Args:
        search: The candidates.
        path: Where to write.
    """
    has_rounds = any(candidate.curve for candidate in search.candidates)
    figure = Figure(figsize=(12 if has_rounds else 7, 4.6), layout="constrained")
    panels = figure.subplots(1, 2 if has_rounds else 1, squeeze=False)[0]
    _draw_front(figure, panels[0], search)
    if has_rounds:
        _draw_rounds(panels[1], search)
    figure.savefig(path, dpi=120)


def quality(candidate: CandidateRecord) -> tuple[str, float]:
    """The measure that all candidates have, in words, and its value: KL after the first round, else what is known."""
    if candidate.rounds:
        first = candidate.rounds[0]
        return f"KL to the teacher after {first.tokens:,} tokens", math.nan if first.kl is None else first.kl
    if candidate.repaired is not None:
        return "KL to the teacher after repair", candidate.repaired.kl
    if candidate.zero_shot is not None:
        return "KL to the teacher right after pruning", candidate.zero_shot.kl
    return "share of importance kept", candidate.retained or math.nan


def _draw_front(figure: Figure, axes: Axes, search: SearchRecord) -> None:
    candidates = search.candidates
    unit, name = (GIB, "GiB") if search.budget_bytes >= GIB else (MIB, "MiB")
    bytes_N = [candidate.memory.total_bytes / unit for candidate in candidates]
    quality_N = [quality(candidate)[1] for candidate in candidates]
    speeds = [candidate.tokens_per_s for candidate in candidates]
    colors = {} if None in speeds else {"c": speeds, "cmap": "viridis"}
    points = axes.scatter(bytes_N, quality_N, s=60, zorder=3, **({"color": "#0072B2"} if None in speeds else colors))
    if colors:
        figure.colorbar(points, ax=axes, label=f"predicted tokens/s on {search.device}")
    front = sorted(
        (size, found)
        for size, found, candidate in zip(bytes_N, quality_N, candidates, strict=True)
        if candidate.on_front
    )
    axes.step(*zip(*front, strict=True), where="post", color="#999999", linewidth=1, zorder=1, label="Pareto front")
    axes.scatter(
        bytes_N[:1], quality_N[:1], s=230, facecolors="none", edgecolors="#D55E00", linewidths=2, label="chosen"
    )
    for number, (size, found) in enumerate(zip(bytes_N, quality_N, strict=True), start=1):
        axes.annotate(str(number), (size, found), textcoords="offset points", xytext=(7, 5), fontsize=8)
    axes.axvline(search.budget_bytes / unit, color="#D55E00", linestyle="--", label="budget")
    axes.set_xlabel(f"predicted memory, {name}")
    axes.set_ylabel(quality(candidates[0])[0])
    axes.set_title(f"{search.num_feasible:,} of {search.num_shapes:,} shapes are within the limits")
    axes.margins(0.12)
    axes.legend(fontsize=8)


def _draw_rounds(axes: Axes, search: SearchRecord) -> None:
    for number, candidate in enumerate(search.candidates, start=1):
        tokens = [0, *(each.tokens / 1e6 for each in candidate.rounds)]
        start = candidate.repaired or candidate.zero_shot
        kl = [start.kl if start else math.nan, *(each.kl or math.nan for each in candidate.rounds)]
        style = {"linewidth": 2.5, "zorder": 3} if number == 1 else {"linewidth": 1}
        axes.plot(tokens, kl, marker="o", markersize=4, label=str(number), **style)
    axes.set_yscale("log")
    axes.set_xlabel("million tokens distilled")
    axes.set_ylabel("KL to the teacher, nats a token")
    axes.set_title("Tournament")
    axes.legend(title="candidate", fontsize=8, ncols=2)
