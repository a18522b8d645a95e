"""How a run's student is served, by what its budget is for and what readers say of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from minitron.errors import MinitronError
from minitron.estimate.serving.model_fit import Memory, fit_model
from minitron.models.config import read_config
from minitron.pipeline.run_report.results import RunResults
from minitron.report.page.parts import Code
from minitron.report.serving_commands import served_context, serving_commands


def serving_parts(results: RunResults, checkpoint: Path, verdicts: Mapping[str, Sequence[str]]) -> tuple[Code, ...]:
    """What to type for each engine, or why there is nothing to type."""
    budget = results.recipe.budget
    refusals = {name.split()[0]: refusals for name, refusals in verdicts.items()}
    commands = serving_commands(
        str(checkpoint),
        context_tokens=served_context(read_config(checkpoint), budget.context_tokens),
        refusals=refusals,
        vllm=vllm_line(results, checkpoint),
        gpu=budget.gpu,
    )
    return tuple(Code(label=f"{each.engine}: {each.about}", text=each.text) for each in commands)


def vllm_line(results: RunResults, checkpoint: Path) -> str | None:
    """The line that starts vLLM within the budget; None where the budget is of no GPU, or none starts."""
    budget = results.recipe.budget
    if budget.gpu is None or budget.device is None:
        return None
    memory = Memory(device=budget.device, utilization=budget.utilization, reserved_gib=budget.reserved_gib)
    try:
        return fit_model(checkpoint, budget.workload.changed(accounting="vllm"), memory).serve
    except MinitronError:  # vLLM does not serve such a model, or not in these formats: its reader says why
        return None
