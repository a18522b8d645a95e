"""Width scorers by name. Adding one is a small file and a line here."""

from minitron.importance.scorers.activation import ActivationScorer
from minitron.importance.scorers.flap import FlapScorer
from minitron.importance.scorers.output_energy import OutputEnergyScorer
from minitron.importance.scorers.scorer import SCORED_AXES, Scorer

SCORERS: dict[str, type[Scorer]] = {
    "activation": ActivationScorer,
    "flap": FlapScorer,
    "output_energy": OutputEnergyScorer,
}

__all__ = ["SCORED_AXES", "SCORERS", "ActivationScorer", "FlapScorer", "OutputEnergyScorer", "Scorer"]
