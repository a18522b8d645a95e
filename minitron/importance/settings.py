"""Settings of calibration: which scorers rank units and blocks, and how samples are run. Loads no torch.

A recipe's score section is these settings and the text.
"""

from collections.abc import Collection
from typing import Literal

from pydantic import Field, model_validator

from minitron.errors import MinitronError
from minitron.models.families.family import Family
from minitron.models.quotas import BlockQuotas
from minitron.settings import NonNegativeInt, PositiveInt, Settings

Aggregation = Literal["mean_abs", "l2", "variance", "max"]
WidthScorer = Literal["activation", "flap", "output_energy"]  # the keys of SCORERS, which loads torch
DepthScorer = Literal["block_influence", "logit_mse", "logit_nmse", "logit_kld"]

# Axes whose units scorers rank. Mamba heads and the channels of a head share their scores.
SCORED_AXES = (
    "hidden_size",
    "intermediate_size",
    "mamba",
    "num_attention_heads",
    "linear_num_value_heads",
    "moe_shared_expert_intermediate_size",
)


class WidthSettings(Settings):
    """Which scorer ranks the units of each axis: activation (as published), flap or output_energy; null: none.

    The defaults are what won over the quickstart's teacher, SmolLM2 and Gemma-3-270M:
    docs/decisions/0026-scores-of-real-models.md.
    """

    hidden_size: WidthScorer | None = Field(default="output_energy", description="Channels of the residual stream.")
    intermediate_size: WidthScorer | None = Field(default="output_energy", description="FFN neurons.")
    mamba: WidthScorer | None = Field(default="flap", description="Mamba heads, and the channels of a head.")
    num_attention_heads: WidthScorer | None = Field(
        default="output_energy", description="Attention heads within their KV group."
    )
    linear_num_value_heads: WidthScorer | None = Field(
        default="flap", description="Value heads of gated DeltaNet within their key head."
    )
    moe_shared_expert_intermediate_size: WidthScorer | None = Field(
        default="flap", description="Neurons of a shared expert."
    )
    sequence: Aggregation = Field(default="mean_abs", description="activation: over tokens (arXiv 2407.14679).")
    batch: Aggregation = Field(default="l2", description="activation: over samples (2407.14679).")
    ffn_preactivation: bool = Field(
        default=False, description="activation: FFN neurons before the nonlinearity, not after it."
    )

    @classmethod
    def uniform(
        cls,
        scorer: WidthScorer | None,
        *,
        axes: Collection[str] = SCORED_AXES,
        sequence: Aggregation = "mean_abs",
        batch: Aggregation = "l2",
        ffn_preactivation: bool = False,
    ) -> "WidthSettings":
        """One scorer for some axes, and none for the others; the other settings are those of the activation scorer.

        >>> WidthSettings.uniform("output_energy", axes=["mamba"]).scorers
        {'mamba': 'output_energy'}
        """
        by_axis = {axis: scorer if axis in axes else None for axis in SCORED_AXES}
        of_activation = {"sequence": sequence, "batch": batch, "ffn_preactivation": ffn_preactivation}
        return cls.model_validate(by_axis | of_activation)

    @property
    def scorers(self) -> dict[str, WidthScorer]:
        """Axis -> name of its scorer, of the axes that have one."""
        return {axis: name for axis in SCORED_AXES if (name := getattr(self, axis)) is not None}


class DepthSettings(Settings):
    """How blocks are ranked."""

    scorer: DepthScorer = Field(
        default="block_influence",
        description="block_influence comes with the widths; logit_mse, logit_nmse and logit_kld bypass each block.",
    )
    remove: NonNegativeInt = Field(
        default=0, description="Blocks to remove greedily by logits, one a sweep (2508.14444); 0: a single sweep."
    )
    keep_attention: NonNegativeInt | None = Field(
        default=None, description="Attention blocks that the greedy removal keeps exactly (4 in 2508.14444)."
    )
    protected: tuple[NonNegativeInt, ...] = Field(default=(), description="Blocks never removed.")
    samples: PositiveInt | None = Field(
        default=256, description="Samples for the logits, 256 as published (2504.11409); all when null."
    )
    trials_at_once: PositiveInt | None = Field(
        default=None, description="Removal trials that run as one batch; as many as suit the device when null."
    )
    batches_at_once: PositiveInt = Field(
        default=8, description="Layerwise: batches that go through a block together while blocks are scored by logits."
    )

    @model_validator(mode="after")
    def _greedy(self) -> "DepthSettings":
        if self.scorer == "block_influence" and self.remove:
            raise MinitronError("score.depth.remove is for a greedy search by logits, block_influence has none")
        if not self.remove and (self.keep_attention is not None or self.protected):
            raise MinitronError(
                "score.depth.keep_attention and protected are for a greedy search: set score.depth.remove"
            )
        return self

    def quotas(self, family: Family) -> BlockQuotas:
        """Which blocks of a family the greedy removal keeps; attention is what keeps keys and values of all tokens."""
        attention = "".join(family.kinds_that_keep("kv"))
        exactly = {} if self.keep_attention is None else {attention: self.keep_attention}
        return BlockQuotas(exactly=exactly, protected=frozenset(self.protected))


class CalibrationSettings(Settings):
    """What is measured, and how samples are run."""

    width: WidthSettings = WidthSettings()
    depth: DepthSettings = DepthSettings()
    batch_size: PositiveInt = Field(default=8, description="Samples in one forward pass.")
    save_every: PositiveInt = Field(default=64, description="Samples between resumable states; layerwise: each block.")
