"""Width scorers by name. Adding one is a small file, a line here, and its name in `settings.WidthScorer`."""

from minitron.importance.scorers.activation import ActivationScorer
from minitron.importance.scorers.flap import FlapScorer
from minitron.importance.scorers.output_energy import OutputEnergyScorer
from minitron.importance.scorers.scorer import Scorer
from minitron.importance.settings import WidthScorer, WidthSettings

SCORERS: dict[WidthScorer, type[Scorer]] = {
    "activation": ActivationScorer,
    "flap": FlapScorer,
    "output_energy": OutputEnergyScorer,
}


def make_scorers(settings: WidthSettings) -> dict[str, Scorer]:
    """Axis -> its scorer."""
    published = ActivationScorer(
        sequence=settings.sequence, batch=settings.batch, ffn_preactivation=settings.ffn_preactivation
    )
    return {axis: published if name == "activation" else SCORERS[name]() for axis, name in settings.scorers.items()}
