"""Forecasts: what cuts cost before anything is trained, and what a distillation takes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from minitron.api.run import run_stages
from minitron.api.shapes import find_target, read_shape
from minitron.estimate.serving.memory import memory_bytes
from minitron.forecast.record import ForecastRecord
from minitron.pipeline.runner import StageOutcome
from minitron.pipeline.sections import with_cut_teacher
from minitron.recipe.load import load_recipe
from minitron.recipe.recipe import Recipe
from minitron.search.solver import Candidate


def forecast(
    recipe: str | Path | Recipe,
    *,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    kl: float | None = None,
    shape: str | Path | Mapping[str, object] | None = None,
    distilled: Sequence[str | Path] = (),
) -> ForecastRecord:
    """Predicts KL to the teacher against bytes, for each axis alone and for mixes, from a few measured cuts.

    A recipe is run up to its scores, some cuts are measured as its candidates would be, and a law over the lost
    importance is fitted to them. Outside what was measured nothing is predicted. What is measured is kept in the run
    folder; a call that was stopped goes on.

    Args:
        recipe: A recipe, or its YAML file.
        output: Run folder; `runs/NAME` when None.
        overrides: Settings as `--set` takes them.
        kl: Also forecast the tokens and hours that the run's distillation, which must have ended, takes to this KL on
            validation text, nats a token.
        shape: Also predict this shape, given as for `minitron.prune`.
        distilled: Run folders of the same student, distilled on other numbers of tokens, that count for `kl`.

    Returns:
        Each axis, the least KL at each number of bytes, the best shape within the limits, and what was measured.

    Raises:
        MinitronError: The recipe or what it names cannot be used, the shape is outside what was measured, or there is
            no distillation that says anything of `kl`.

    Example:
        ```python
        found = minitron.forecast("recipe.yaml", overrides=["forecast.mixes=12"])
        for point in found.front:
            print(f"{point.cut.total_bytes:,} bytes: KL {point.kl.low:.3f} to {point.kl.high:.3f}")
        ```
    """
    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe), tuple(overrides))
    folder = None if output is None else Path(output)
    sizes = None if shape is None else read_shape(shape)
    return forecast_run(loaded, folder, kl=kl, sizes=sizes, distilled=[Path(each) for each in distilled])


def forecast_run(
    recipe: Recipe,
    output: Path | None = None,
    *,
    kl: float | None = None,
    sizes: Mapping[str, object] | None = None,
    distilled: Sequence[Path] = (),
    on_outcome: Callable[[StageOutcome], None] | None = None,
) -> ForecastRecord:
    """The forecast of a loaded recipe; see `forecast`.

    Args:
        recipe: The recipe.
        output: Run folder; `runs/NAME` when None.
        kl: KL that a distillation is to reach.
        sizes: A shape by its sizes.
        distilled: Run folders whose distillations count, too.
        on_outcome: Called as a stage ends.
    """
    scored = run_stages(recipe, output, last="score", on_outcome=on_outcome)

    from minitron.pipeline.forecast.forecast import make_forecast
    from minitron.pipeline.forecast.recovery import forecast_recovery
    from minitron.pipeline.forecast.space import open_space
    from minitron.runtime.devices import resolve_device

    run, given = scored.folder, scored.recipe.on_device(resolve_device(scored.recipe.device))
    followed = with_cut_teacher(given, run)
    recovery = None if kl is None else forecast_recovery(followed, run, kl, distilled)
    space = open_space(followed, run)
    asked = []
    if sizes is not None:
        target, layers = find_target(space.source, space.scores, sizes)
        asked = [Candidate(shape=target, layers=layers, memory=memory_bytes(target, recipe.budget.workload))]
    return make_forecast(given, run, space, asked=asked, recovery=recovery)
