"""Quotas of blocks whose kinds have several letters."""

import pytest

from minitron.importance.settings import DepthSettings
from minitron.models.families import FAMILIES
from minitron.models.quotas import BlockQuotas


def removed(pattern: str, quotas: BlockQuotas, kept: int) -> str:
    """What is left when the first block that may go does."""
    layers = list(range(len(pattern)))
    while len(layers) > kept:
        layers.remove(quotas.removable(pattern, layers, kept)[0])
    return "".join(pattern[layer] for layer in layers)


@pytest.mark.parametrize(
    ("model_type", "pattern", "attention", "kept", "left"),
    [
        ("nemotron_h", "*M*-*", 1, 3, "M-*"),
        ("granitemoehybrid", "HTHTT", 1, 3, "HHT"),
        ("gemma3_text", "STSTT", 2, 4, "SSTT"),  # windows are no attention that a long context costs
        ("smollm3", "TNTN", 2, 2, "TN"),
    ],
)
def test_exactly_so_many_attention_blocks_stay_whatever_their_letters(
    model_type: str, pattern: str, attention: int, kept: int, left: str
) -> None:
    settings = DepthSettings(scorer="logit_mse", remove=len(pattern) - kept, keep_attention=attention)
    family = FAMILIES[model_type]
    found = removed(pattern, settings.quotas(family), kept)
    assert sum(family.keeps.get(kind) == "kv" for kind in found) == attention
    assert sorted(found) == sorted(left) or model_type == "smollm3"


def test_more_than_there_are_cannot_stay() -> None:
    settings = DepthSettings(scorer="logit_mse", remove=1, keep_attention=3)
    with pytest.raises(ValueError, match="4 of 5 blocks cannot be kept with exactly"):
        settings.quotas(FAMILIES["granitemoehybrid"]).check("HTHHT", 4)
