"""What a run measured of one of its checkpoints, for its model card."""

from pathlib import Path

from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.run_report.results import open_results
from minitron.report.model_card import CardResults
from minitron.report.page.verdict import DISTILLED, PRUNED, TEACHERS


def find_card_results(checkpoint: Path) -> CardResults | None:
    """The results of a run's pruned or distilled checkpoint; None of any other, and where nothing was measured yet.

    Raises:
        MinitronError: The run's files are not as this version writes them.
    """
    folder = checkpoint.resolve()
    run = RunFolder(folder.parent.parent)
    model = {run.student: DISTILLED, run.pruned: PRUNED}.get(folder)
    if model is None or not run.recipe.is_file():
        return None
    results = open_results(run.path)
    if not results.has("evaluate"):
        return None
    metrics, recipe = run.read_metrics(), results.recipe
    return CardResults(
        teacher=next(metrics[name] for name in TEACHERS if name in metrics),
        model=metrics[model],
        sequences=recipe.evaluate.sequences,
        seq_len=recipe.evaluate.seq_len,
        budget_bytes=recipe.budget.budget_bytes,
        context_tokens=recipe.budget.context_tokens,
        accounting=recipe.budget.accounting,
    )
