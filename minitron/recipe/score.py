"""How units and blocks are scored."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from minitron.errors import RecipeError
from minitron.models.quotas import BlockQuotas
from minitron.recipe.source import Source
from minitron.settings import PositiveInt, Settings

Aggregation = Literal["mean_abs", "l2", "variance", "max"]
DepthScorer = Literal["block_influence", "logit_mse", "logit_nmse", "logit_kld"]


class WidthSection(Settings):
    """Which scorer ranks the units of each axis: activation (as published), flap or output_energy.

    The defaults are what won on the quickstart's teacher: docs/decisions/0006-default-scores.md.
    """

    hidden_size: str = Field(default="flap", description="Channels of the residual stream.")
    intermediate_size: str = Field(default="flap", description="FFN neurons.")
    mamba: str = Field(default="flap", description="Mamba heads, and the channels of a head.")
    num_attention_heads: str = Field(default="flap", description="Attention heads within their KV group.")
    moe_shared_expert_intermediate_size: str = Field(default="flap", description="Neurons of a shared expert.")
    sequence: Aggregation = Field(default="mean_abs", description="activation: over tokens (arXiv 2407.14679).")
    batch: Aggregation = Field(default="l2", description="activation: over samples (2407.14679).")
    ffn_preactivation: bool = Field(default=False, description="activation: hear the FFN before its nonlinearity.")


class DepthSection(Settings):
    """How blocks are ranked."""

    scorer: DepthScorer = Field(
        default="block_influence",
        description="block_influence comes with the widths; logit_mse, logit_nmse and logit_kld bypass each block.",
    )
    remove: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Blocks to remove greedily by logits, one a sweep (2508.14444); 0: a single sweep."
    )
    keep_attention: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Attention blocks that the greedy removal keeps exactly (4 in 2508.14444)."
    )
    protected: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), description="Blocks never removed.")
    samples: PositiveInt | None = Field(
        default=256, description="Samples for the logits, 256 as published (2504.11409); all when null."
    )
    trials_at_once: PositiveInt | None = Field(
        default=None, description="Removal trials that run as one batch; as many as suit the device when null."
    )

    @model_validator(mode="after")
    def _greedy(self) -> "DepthSection":
        if self.scorer == "block_influence" and self.remove:
            raise RecipeError("score.depth.remove is for a greedy search by logits, block_influence has none")
        if not self.remove and (self.keep_attention is not None or self.protected):
            raise RecipeError(
                "score.depth.keep_attention and protected are for a greedy search: set score.depth.remove"
            )
        return self

    @property
    def quotas(self) -> BlockQuotas:
        """Which blocks the greedy removal keeps."""
        exactly = {} if self.keep_attention is None else {"*": self.keep_attention}
        return BlockQuotas(exactly=exactly, protected=frozenset(self.protected))


class ScoreSection(Settings):
    """Calibration."""

    data: tuple[Source, ...] = Field(min_length=1, description="Calibration text.")
    samples: PositiveInt = Field(default=1024, description="Samples; 1024 as published (arXiv 2407.14679).")
    seq_len: PositiveInt = Field(default=4096, description="Tokens a sample.")
    packed: bool = Field(default=True, description="Join documents into full samples; else one padded document each.")
    width: WidthSection = WidthSection()
    depth: DepthSection = DepthSection()
    batch_size: PositiveInt = Field(default=8, description="Samples in one forward pass.")
    layerwise: bool = Field(default=False, description="Hold one block in memory at a time, read from the files.")
    save_every: PositiveInt = Field(default=64, description="Samples between resumable states; layerwise: each block.")
