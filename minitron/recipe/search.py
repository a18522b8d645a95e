"""Recipe section: which sizes the search tries, and how it chooses one of them."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from minitron.errors import RecipeError
from minitron.settings import PositiveInt, Settings

Choice = Literal["largest", "importance", "throughput", "zero_shot", "repaired", "tournament"]


class SizeRange(Settings):
    """Sizes of an axis from max down to min."""

    min: PositiveInt = Field(description="Smallest size.")
    max: PositiveInt | None = Field(default=None, description="Largest size; the teacher's when null.")
    step: PositiveInt | None = Field(
        default=None, description="Multiples that kernels like when null: 64, 8 for head channels, groups for heads."
    )


# Only the branch that was meant is reported when a value is malformed.
Sizes = Annotated[
    Annotated[tuple[PositiveInt, ...], Tag("list")] | Annotated[SizeRange, Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, dict | SizeRange) else "list"),
]
UNION_TAGS = ("list", "range")


# Settings of a search that are no axis.
NOT_AXES = {
    "num_hidden_layers",
    "intermediate_ratio",
    "keep_attention",
    "choose",
    "top_k",
    "shortlist",
    "processes",
    "tournament",
}


class TournamentSection(Settings):
    """Successive halving by short distillation (arXiv 1603.06560); ranks settle within some hundred steps."""

    tokens: tuple[PositiveInt, ...] = Field(
        default=(), description="Tokens that each candidate has been distilled on after each round, ascending."
    )
    keep: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="Share of the candidates kept after a round."
    )
    sequences: PositiveInt = Field(
        default=32, description="Held-out sequences of the distillation's text, behind those trained on, to judge by."
    )

    @model_validator(mode="after")
    def _ascending(self) -> "TournamentSection":
        if list(self.tokens) != sorted(set(self.tokens)):
            raise RecipeError(f"tournament tokens must ascend from round to round, got {list(self.tokens)}")
        return self


class SearchSection(Settings):
    """The sizes to try, and how one is chosen; an axis that is left out keeps the teacher's size."""

    num_hidden_layers: Sizes | None = Field(default=None, description="Number of blocks.")
    hidden_size: Sizes | None = Field(default=None, description="Width of the residual stream.")
    intermediate_size: Sizes | None = Field(default=None, description="FFN width.")
    intermediate_ratio: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = Field(
        default=None, description="FFN width as a multiple of hidden_size, in place of intermediate_size."
    )
    mamba_num_heads: Sizes | None = Field(default=None, description="Mamba heads.")
    mamba_head_dim: Sizes | None = Field(default=None, description="Channels of a Mamba head.")
    num_attention_heads: Sizes | None = Field(default=None, description="Attention heads.")
    num_key_value_heads: Sizes | None = Field(
        default=None, description="Heads of keys and values, each with its attention heads."
    )
    linear_num_value_heads: Sizes | None = Field(default=None, description="Value heads of gated DeltaNet.")
    linear_num_key_heads: Sizes | None = Field(
        default=None, description="Key heads of gated DeltaNet, each with its value heads."
    )
    n_routed_experts: Sizes | None = Field(default=None, description="Routed experts.")
    moe_intermediate_size: Sizes | None = Field(default=None, description="FFN width of a routed expert.")
    moe_shared_expert_intermediate_size: Sizes | None = Field(default=None, description="FFN width of a shared expert.")
    keep_attention: Annotated[int, Field(ge=0)] = Field(
        default=1, description="Attention blocks that must stay (2508.14444 keeps 4)."
    )
    choose: Choice = Field(
        default="importance",
        description="largest: as published (2508.14444); importance: what keeps most of it; throughput: the fastest by "
        "prediction; zero_shot: least KL to the teacher right after pruning; repaired: after closed-form repair, as "
        "prune.repair sets it or with its defaults; tournament: after short distillation. "
        "The default won against the published rule at no cost: docs/decisions/0008-search.md.",
    )
    top_k: PositiveInt = Field(default=3, description="Candidates kept; 3 as published (2508.14444).")
    shortlist: PositiveInt = Field(
        default=8, description="Candidates that are pruned and measured: the largest and those that keep most, in turn."
    )
    processes: PositiveInt = Field(
        default=1,
        description="Local processes that measure candidates side by side; each holds the models, and a share of the "
        "threads.",
    )
    tournament: TournamentSection = TournamentSection()

    @property
    def sizes(self) -> dict[str, tuple[int, ...] | SizeRange]:
        """Axis -> the sizes or range that are given for it."""
        names = set(type(self).model_fields) - NOT_AXES
        return {name: found for name in sorted(names) if (found := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _rounds(self) -> "SearchSection":
        if self.choose == "tournament" and not self.tournament.tokens:
            raise RecipeError("a tournament needs the tokens of its rounds: set search.tournament.tokens")
        return self
