"""Figure of a run: bytes against the budget, loss while distilling, and quality side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minitron.evaluate.metrics import Metrics
from minitron.report.tables import PART_LABELS
from minitron.units import MIB

# Okabe-Ito colors, told apart by color-blind readers.
PART_COLORS = {
    "weights": "#0072B2",
    "kv": "#E69F00",
    "ssm": "#009E73",
    "conv": "#56B4E9",
    "workspace": "#999999",
}
MODEL_COLORS = {"teacher": "#444444", "pruned": "#D55E00", "distilled": "#0072B2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """The data of a run's figure.

    Attributes:
        title: Name of the run.
        metrics: Metrics of teacher, pruned and distilled.
        curve: (tokens, mean training loss) of the distillation.
        validation: (tokens, loss on validation text); empty where there was none.
        kept_tokens: Tokens after which the kept state was reached; None where there was no validation text.
        budget_bytes: The budget.
        context_tokens: The context that the bytes are for.
    """

    title: str
    metrics: Mapping[str, Metrics]
    curve: Sequence[tuple[int, float]]
    budget_bytes: int
    context_tokens: int
    validation: Sequence[tuple[int, float]] = ()
    kept_tokens: int | None = None


def draw_summary(run: RunSummary, path: Path) -> None:
    """Draws a run's summary as a PNG."""
    has_task = run.metrics["teacher"].task is not None
    figure = Figure(figsize=(13 if has_task else 9, 4.2), layout="constrained")
    panels = figure.subplots(1, 3 if has_task else 2)
    figure.suptitle(run.title)
    _draw_memory(panels[0], run.metrics, run.budget_bytes, run.context_tokens)
    _draw_recovery(panels[1], run)
    if has_task:
        _draw_task(panels[2], run.metrics)
    figure.savefig(path, dpi=120)


def _draw_memory(axes: Axes, metrics: Mapping[str, Metrics], budget_bytes: int, context_tokens: int) -> None:
    models = ["teacher", "distilled"]
    bottom = [0.0, 0.0]
    for part, color in PART_COLORS.items():
        heights = [getattr(metrics[model].memory, f"{part}_bytes") / MIB for model in models]
        if any(heights):
            axes.bar(["teacher", "student"], heights, bottom=bottom, color=color, label=PART_LABELS[part], width=0.55)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for position, total in enumerate(bottom):
        axes.annotate(
            f"{total:.2f}", (position, total), ha="center", va="bottom", xytext=(0, 2), textcoords="offset points"
        )
    axes.axhline(budget_bytes / MIB, color="#D55E00", linestyle="--", label="budget")
    axes.set_ylim(0, 1.35 * max(*bottom, budget_bytes / MIB))
    axes.set_ylabel("MiB")
    axes.set_title(f"Memory at {context_tokens:,} tokens")
    axes.legend(loc="upper right", ncols=2, fontsize=8)


def _draw_recovery(axes: Axes, run: RunSummary) -> None:
    metrics, color = run.metrics, MODEL_COLORS["distilled"]
    _draw_curve(axes, run.curve, color=color, label="training", alpha=0.5)
    if run.validation:
        _draw_curve(axes, run.validation, color=color, label="validation", marker=".")
        kept = [(tokens, loss) for tokens, loss in run.validation if tokens == run.kept_tokens]
        axes.plot([tokens / 1e6 for tokens, _ in kept], [loss for _, loss in kept], "o", color=color, label="kept")
    for model, style in (("pruned", "--"), ("distilled", ":")):
        kl = metrics[model].kl_to_teacher or 0.0
        axes.axhline(kl, color=MODEL_COLORS[model], linestyle=style, label=f"{model}, held out: {kl:.3g}")
    axes.set_yscale("log")
    axes.set_xlabel("million tokens distilled")
    axes.set_ylabel("KL to the teacher, nats a token")
    axes.set_title("Recovery")
    axes.legend(fontsize=8)


def _draw_curve(axes: Axes, curve: Sequence[tuple[int, float]], **style: Any) -> None:
    axes.plot([tokens / 1e6 for tokens, _ in curve], [loss for _, loss in curve], **style)


def _draw_task(axes: Axes, metrics: Mapping[str, Metrics]) -> None:
    shares = [100 * (metrics[model].exact_match or 0.0) for model in MODEL_COLORS]
    bars = axes.bar(list(MODEL_COLORS), shares, color=list(MODEL_COLORS.values()), width=0.55)
    axes.bar_label(bars, fmt="%.1f", padding=2)
    axes.set_ylim(0, 112)
    axes.set_ylabel("% exact match")
    axes.set_title(f"Task: {metrics['teacher'].task}")
