"""Minitron: prunes hybrid Mamba-2/attention/MLP language models to a memory budget and distills them back.

The names below are the public Python API. They are imported when they are first used, so that `import minitron` itself
is instant and loads no torch:

    import minitron

    minitron.fit("nvidia-12b/", gpu="a10g", context=131072)["verdict"]
    scores = minitron.calibrate("teacher/", "text.jsonl", output="scores/")
    pruned = minitron.prune("teacher/", scores="scores/", shape={"hidden_size": 4480}, output="pruned/")
    metrics = minitron.evaluate("pruned/", "heldout.jsonl", teacher="teacher/")
    result = minitron.run("recipe.yaml")
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minitron.api.bench import bench
    from minitron.api.check import Checked, check
    from minitron.api.evaluate import evaluate
    from minitron.api.export import export
    from minitron.api.extract import extract
    from minitron.api.fit import fit
    from minitron.api.forecast import forecast
    from minitron.api.load import load_recipe, load_scores, open_checkpoint
    from minitron.api.merge import Merged, merge
    from minitron.api.prune import prune
    from minitron.api.publishing.push import Pushed, push
    from minitron.api.publishing.report import Reported, report
    from minitron.api.run import RunResult, distill, run, search, status
    from minitron.api.score import calibrate
    from minitron.api.verify import Verified, verify
    from minitron.api.vocabulary import cut_vocabulary
    from minitron.checkpoints.checkpoint import Checkpoint
    from minitron.drafting.draft import Draft, draft_recipe
    from minitron.drafting.wishes import Wishes
    from minitron.errors import MinitronError
    from minitron.evaluate.metrics import Metrics
    from minitron.evaluate.speed.bench import Bench
    from minitron.forecast.record import ForecastRecord
    from minitron.importance.scores import Scores
    from minitron.integrations.gguf.export import Exported
    from minitron.models.shape import HybridShape
    from minitron.pipeline.status import RunStatus
    from minitron.recipe.recipe import Recipe
    from minitron.search.record import SearchRecord

    __version__: str

# Public name -> the module that holds it.
_HOMES = {
    "Bench": "minitron.evaluate.speed.bench",
    "Checked": "minitron.api.check",
    "Checkpoint": "minitron.checkpoints.checkpoint",
    "Draft": "minitron.drafting.draft",
    "Exported": "minitron.integrations.gguf.export",
    "ForecastRecord": "minitron.forecast.record",
    "HybridShape": "minitron.models.shape",
    "Merged": "minitron.api.merge",
    "Metrics": "minitron.evaluate.metrics",
    "MinitronError": "minitron.errors",
    "Pushed": "minitron.api.publishing.push",
    "Recipe": "minitron.recipe.recipe",
    "Reported": "minitron.api.publishing.report",
    "RunResult": "minitron.api.run",
    "RunStatus": "minitron.pipeline.status",
    "Scores": "minitron.importance.scores",
    "SearchRecord": "minitron.search.record",
    "Verified": "minitron.api.verify",
    "Wishes": "minitron.drafting.wishes",
    "bench": "minitron.api.bench",
    "calibrate": "minitron.api.score",
    "check": "minitron.api.check",
    "cut_vocabulary": "minitron.api.vocabulary",
    "distill": "minitron.api.run",
    "draft_recipe": "minitron.drafting.draft",
    "evaluate": "minitron.api.evaluate",
    "export": "minitron.api.export",
    "extract": "minitron.api.extract",
    "fit": "minitron.api.fit",
    "forecast": "minitron.api.forecast",
    "load_recipe": "minitron.api.load",
    "load_scores": "minitron.api.load",
    "merge": "minitron.api.merge",
    "open_checkpoint": "minitron.api.load",
    "prune": "minitron.api.prune",
    "push": "minitron.api.publishing.push",
    "report": "minitron.api.publishing.report",
    "run": "minitron.api.run",
    "search": "minitron.api.run",
    "status": "minitron.api.run",
    "verify": "minitron.api.verify",
}

__all__ = [
    "Bench",
    "Checked",
    "Checkpoint",
    "Draft",
    "Exported",
    "ForecastRecord",
    "HybridShape",
    "Merged",
    "Metrics",
    "MinitronError",
    "Pushed",
    "Recipe",
    "Reported",
    "RunResult",
    "RunStatus",
    "Scores",
    "SearchRecord",
    "Verified",
    "Wishes",
    "__version__",
    "bench",
    "calibrate",
    "check",
    "cut_vocabulary",
    "distill",
    "draft_recipe",
    "evaluate",
    "export",
    "extract",
    "fit",
    "forecast",
    "load_recipe",
    "load_scores",
    "merge",
    "open_checkpoint",
    "prune",
    "push",
    "report",
    "run",
    "search",
    "status",
    "verify",
]


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("minitron")
    if name not in _HOMES:
        raise AttributeError(f"module 'minitron' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__


def _function(name: str) -> property:
    # The import system would put a package of this name in the place of the function.
    return property(lambda module: __getattr__(name), lambda module, package: None)


class _Minitron(ModuleType):
    """This package, whose functions go before its packages of the same names: `minitron.prune(...)` prunes.

    What lies in those packages is imported by `from minitron.prune.plan import PrunePlan`.
    """

    distill = _function("distill")
    evaluate = _function("evaluate")
    forecast = _function("forecast")
    prune = _function("prune")
    report = _function("report")
    search = _function("search")


sys.modules[__name__].__class__ = _Minitron
