"""The recipe: everything a run depends on, in one YAML file that is checked whole before anything starts."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from minitron.hybrid.text import is_text_file
from minitron.search import (
    DEFAULT_UTILIZATION,
    GIB,
    Device,
    Engine,
    Lengths,
    Limits,
    Workload,
    find_device,
    usable_bytes,
)

Fraction = Annotated[float, Field(gt=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Aggregation = Literal["mean_abs", "l2", "variance", "max"]
DepthScorer = Literal["block_influence", "logit_mse", "logit_nmse", "logit_kld"]
WeightsDtype = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4"]
CacheDtype = Literal["fp32", "bf16", "fp16", "fp8", "int8"]
Choice = Literal["largest", "importance", "throughput", "zero_shot", "tournament"]


class RecipeError(ValueError):
    """A recipe that cannot be used; the message has one line for each fault."""


class Section(BaseModel):
    """Base of the recipe's sections: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SectionT = TypeVar("SectionT", bound=Section)


class Source(Section):
    """One source of text."""

    path: str = Field(description="A .txt, .jsonl or .parquet file beside the recipe, or the name of a dataset.")
    weight: float = Field(default=1.0, gt=0, description="Share of the blend, relative to the other sources'.")
    field: str = Field(default="text", description="Column that holds the text.")
    split: str = Field(default="train", description="Split of a named dataset.")
    excerpt_chars: PositiveInt | None = Field(
        default=None, description="Cut documents into excerpts of so many characters before shuffling; whole if unset."
    )


class WidthSection(Section):
    """Which scorer ranks the units of each axis: activation (as published), flap or output_energy.

    The defaults are what won on the quickstart's teacher: docs/decisions/0006-default-scores.md.
    """

    hidden_size: str = Field(default="flap", description="Channels of the residual stream.")
    intermediate_size: str = Field(default="flap", description="FFN neurons.")
    mamba: str = Field(default="flap", description="Mamba heads, and the channels of a head.")
    num_attention_heads: str = Field(default="flap", description="Attention heads within their KV group.")
    sequence: Aggregation = Field(default="mean_abs", description="activation: over tokens (arXiv 2407.14679).")
    batch: Aggregation = Field(default="l2", description="activation: over samples (2407.14679).")
    ffn_preactivation: bool = Field(default=False, description="activation: hear the FFN before its nonlinearity.")


class DepthSection(Section):
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


class ScoreSection(Section):
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


class EngineSection(Section):
    """vLLM's settings, used by its accounting."""

    max_num_seqs: PositiveInt = Field(default=256, description="Sequences that may run at once.")
    max_num_batched_tokens: PositiveInt = Field(default=2048, description="Tokens of one step.")
    prefix_caching: bool = Field(default=False, description="Share prefixes; doubles a sequence's Mamba blocks.")
    context_gib: tuple[NotNegative, NotNegative] = Field(
        default=(0.3, 0.6), description="Assumed CUDA context and fragmentation, low and high."
    )
    graph_gib: tuple[NotNegative, NotNegative] = Field(
        default=(0.1, 1.0), description="Assumed CUDA graphs, low and high."
    )

    @property
    def engine(self) -> Engine:
        """The settings as the memory model takes them."""
        return Engine(
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            prefix_caching=self.prefix_caching,
            context_bytes=(int(self.context_gib[0] * GIB), int(self.context_gib[1] * GIB)),
            graph_bytes=(int(self.graph_gib[0] * GIB), int(self.graph_gib[1] * GIB)),
        )


class ThroughputSection(Section):
    """What throughput is predicted for; the rates of a GPU without a profile are given."""

    gpu: str | None = Field(default=None, description="A device profile; the budget's when null.")
    bandwidth_gb_s: float | None = Field(default=None, gt=0, description="Peak bandwidth, 10^9 bytes a second.")
    bf16_tflops: float | None = Field(default=None, gt=0, description="Peak dense bf16 rate, 10^12 a second.")
    fp8_tflops: float | None = Field(default=None, gt=0, description="Peak dense fp8 rate, where there are fp8 cores.")
    input_tokens: PositiveInt = Field(default=8192, description="Tokens in, 8192 as published (2508.14444).")
    output_tokens: PositiveInt = Field(default=16384, description="Tokens out, 16384 as published (2508.14444).")

    @model_validator(mode="after")
    def _profile_or_rates(self) -> "ThroughputSection":
        given = (self.bandwidth_gb_s is not None, self.bf16_tflops is not None)
        if any(given) and (not all(given) or self.gpu is not None):
            raise ValueError("either gpu, or both of bandwidth_gb_s and bf16_tflops can be given")
        if self.gpu is not None:
            find_device(self.gpu)
        return self

    @property
    def lengths(self) -> Lengths:
        """Tokens in and out as the throughput model takes them."""
        return Lengths(input_tokens=self.input_tokens, output_tokens=self.output_tokens)


class BudgetSection(Section):
    """What the student must keep to: exactly one of gpu, memory_gib and memory_bytes, the workload, other limits."""

    gpu: str | None = Field(default=None, description="A device profile, whose visible memory is the budget.")
    memory_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Memory in GiB.")
    memory_bytes: int | None = Field(default=None, gt=0, description="Memory in bytes.")
    utilization: Fraction | None = Field(
        default=None, description="Share of the memory that may be used; 0.95 (plain) or 0.92 (vllm) when null."
    )
    reserved_gib: NotNegative = Field(default=0.0, description="GiB set aside for others (1.3 for a vision encoder).")
    context_tokens: PositiveInt = Field(description="Tokens that each sequence must hold.")
    sequences: PositiveInt = Field(default=1, description="Sequences at once.")
    weights_dtype: WeightsDtype = Field(default="bf16", description="Precision of the weights.")
    kv_dtype: CacheDtype = Field(default="bf16", description="Precision of the attention cache.")
    ssm_dtype: CacheDtype = Field(default="fp32", description="Precision of the Mamba state, fp32 in HF and vLLM.")
    workspace_gib: NotNegative | None = Field(
        default=None, description="GiB for activations and logits; when null 0 (plain) or an estimate (vllm)."
    )
    accounting: Literal["plain", "vllm"] = Field(default="plain", description="As stored, or in vLLM's blocks.")
    engine: EngineSection = EngineSection()
    max_params: PositiveInt | None = Field(default=None, description="Most parameters.")
    min_tokens_per_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Least predicted output tokens a second."
    )
    throughput: ThroughputSection = ThroughputSection()

    @model_validator(mode="after")
    def _one_memory(self) -> "BudgetSection":
        given = [self.gpu, self.memory_gib, self.memory_bytes]
        if sum(value is not None for value in given) != 1:
            raise ValueError("exactly one of gpu, memory_gib and memory_bytes must be given")
        if self.gpu is not None:
            find_device(self.gpu)
        if self.min_tokens_per_s is not None and self.device is None:
            raise ValueError("min_tokens_per_s needs a gpu: give budget.gpu or budget.throughput")
        return self

    @property
    def budget_bytes(self) -> int:
        """Bytes that the student may need in total."""
        if self.gpu is not None:
            memory = find_device(self.gpu).visible_bytes
        elif self.memory_gib is not None:
            memory = int(self.memory_gib * GIB)
        else:
            memory = self.memory_bytes or 0
        utilization = DEFAULT_UTILIZATION[self.accounting] if self.utilization is None else self.utilization
        return usable_bytes(memory, utilization=utilization, reserved_gib=self.reserved_gib)

    @property
    def device(self) -> Device | None:
        """The GPU that throughput is predicted for; None predicts none."""
        rates = self.throughput
        if rates.bandwidth_gb_s is not None:
            return Device(
                name="custom",
                visible_gib=self.budget_bytes / GIB,
                bandwidth_gb_s=rates.bandwidth_gb_s,
                bf16_tflops=rates.bf16_tflops,
                fp8_tflops=rates.fp8_tflops,
                source="the recipe",
            )
        name = rates.gpu or self.gpu
        return None if name is None else find_device(name)

    @property
    def limits(self) -> Limits:
        """The limits as the solver takes them."""
        return Limits(
            budget_bytes=self.budget_bytes,
            max_params=self.max_params,
            min_tokens_per_s=self.min_tokens_per_s,
            device=self.device,
            lengths=self.throughput.lengths,
        )

    @property
    def workload(self) -> Workload:
        """The workload as the memory model takes it."""
        return Workload(
            context_tokens=self.context_tokens,
            sequences=self.sequences,
            weights_dtype=self.weights_dtype,
            kv_dtype=self.kv_dtype,
            ssm_dtype=self.ssm_dtype,
            workspace_bytes=None if self.workspace_gib is None else int(self.workspace_gib * GIB),
            accounting=self.accounting,
            engine=self.engine.engine,
        )


class SizeRange(Section):
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


class TournamentSection(Section):
    """Successive halving by short distillation (arXiv 1603.06560); ranks settle within some hundred steps."""

    tokens: tuple[PositiveInt, ...] = Field(
        default=(), description="Tokens that each candidate has been distilled on after each round, ascending."
    )
    keep: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.5, description="Share that goes on after a round.")
    blocks: PositiveInt = Field(
        default=32, description="Blocks of the distillation's text, not trained on, to judge by."
    )

    @model_validator(mode="after")
    def _ascending(self) -> "TournamentSection":
        if list(self.tokens) != sorted(set(self.tokens)):
            raise ValueError(f"tournament tokens must ascend from round to round, got {list(self.tokens)}")
        return self


class SearchSection(Section):
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
    keep_attention: Annotated[int, Field(ge=0)] = Field(
        default=1, description="Attention blocks that must stay (2508.14444 keeps 4)."
    )
    choose: Choice = Field(
        default="importance",
        description="largest: as published (2508.14444); importance: what keeps most of it; throughput: the fastest by "
        "prediction; zero_shot: least KL to the teacher right after pruning; tournament: after short distillation. "
        "The default won against the published rule at no cost: docs/decisions/0008-search.md.",
    )
    top_k: PositiveInt = Field(default=3, description="Candidates kept; 3 as published (2508.14444).")
    shortlist: PositiveInt = Field(
        default=8, description="Candidates that are pruned and measured: the largest and those that keep most, in turn."
    )
    tournament: TournamentSection = TournamentSection()

    @model_validator(mode="after")
    def _rounds(self) -> "SearchSection":
        if self.choose == "tournament" and not self.tournament.tokens:
            raise ValueError("a tournament needs the tokens of its rounds: set search.tournament.tokens")
        return self


class DistillSection(Section):
    """Recovery from the teacher's logits."""

    data: tuple[Source, ...] = Field(min_length=1, description="Training text and its blend.")
    tokens: PositiveInt = Field(description="Tokens to train on.")
    seq_len: PositiveInt = Field(default=8192, description="Tokens a block; 8192 in the first published stage.")
    batch_size: PositiveInt = Field(default=8, description="Blocks in one step.")
    learning_rate: float = Field(default=1e-4, gt=0, description="Peak learning rate (2408.11796).")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(default=60, description="Linear warm-up (2408.11796).")
    temperature: float = Field(default=1.0, gt=0, description="Softmax temperature (2407.14679).")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay.")
    save_steps: Annotated[int, Field(ge=0)] = Field(default=100, description="Steps between resumable states, 0: none.")


class DepthFirstSection(Section):
    """The published two steps: blocks go first and are distilled away, then the widths (arXiv 2508.14444)."""

    num_hidden_layers: PositiveInt = Field(description="Blocks that are left for the second step.")
    distill: DistillSection = Field(description="Distillation between the steps.")


class Task(Section):
    """An exact-match task."""

    name: str = Field(description="What the tables call it.")
    path: str = Field(description="A .jsonl file with prompt and answer.")
    problems: PositiveInt | None = Field(default=None, description="How many to ask; all when left out.")
    max_new_tokens: PositiveInt = Field(default=256, description="Tokens an answer may take, its trace included.")


class EvaluateSection(Section):
    """Evaluation of teacher, pruned and distilled."""

    data: tuple[Source, ...] = Field(min_length=1, description="Held-out text.")
    blocks: PositiveInt = Field(default=64, description="Packed blocks of it.")
    seq_len: PositiveInt = Field(default=1024, description="Tokens a block.")
    task: Task | None = Field(default=None, description="An exact-match task.")
    speed_new_tokens: PositiveInt = Field(default=64, description="Tokens generated to measure speed.")


class Recipe(Section):
    """A whole run."""

    version: Literal[1] = Field(description="Version of the recipe's form.")
    name: str = Field(description="Name of the run; its folder is runs/NAME unless told otherwise.")
    teacher: str = Field(description="Checkpoint folder, relative to the recipe.")
    seed: int = Field(default=0, description="Seed of every random choice.")
    device: str = Field(default="cpu", description="torch device that models run on.")
    score: ScoreSection
    depth_first: DepthFirstSection | None = Field(
        default=None, description="Cut blocks and distil before anything else; depth and widths together when null."
    )
    budget: BudgetSection
    search: SearchSection
    distill: DistillSection
    evaluate: EvaluateSection

    @model_validator(mode="after")
    def _depth_once(self) -> "Recipe":
        if self.depth_first is not None and self.search.num_hidden_layers is not None:
            raise ValueError("either depth_first or search.num_hidden_layers cuts blocks, not both")
        return self


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Reads, overrides and validates a recipe; paths in it become absolute.

    Args:
        path: The YAML file.
        overrides: `key=value` with dots between levels, values in YAML, as in `distill.tokens=1000000`.

    Raises:
        RecipeError: Every fault at once, a line each.
    """
    if not path.is_file():
        raise RecipeError(f"recipe not found: {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where is not None else ""
        raise RecipeError(f"{path}{line}: a recipe must be YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe must be a mapping of sections, got {type(values).__name__}")
    for override in overrides:
        _override(values, override)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError("\n".join(_fault(path, fault, Recipe) for fault in error.errors())) from error
    return _resolve_paths(recipe, path.resolve().parent)


def make_section(kind: type[SectionT], values: dict[str, Any], overrides: tuple[str, ...] = ()) -> SectionT:
    """One section of a recipe from values and overrides (`key=value`), validated.

    Raises:
        RecipeError: Every fault at once, a line each.
    """
    for override in overrides:
        _override(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError("\n".join(_fault(None, fault, kind) for fault in error.errors())) from error


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise RecipeError(f"an override must be key=value, got {override!r}")
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise RecipeError(f"an override must name a setting of a section, {section} in {key!r} is a value")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"an override's value must be YAML, {override!r} is not") from error


def _fault(path: Path | None, fault: Any, root: type[Section]) -> str:
    loc = tuple(part for part in fault["loc"] if part not in UNION_TAGS)
    where = ".".join(str(part) for part in loc)
    file = "" if path is None else f"{path}: "
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), _known_keys(loc[:-1], root), n=1)
        return f"{file}unknown key {where}" + (f"; did you mean {near[0]}?" if near else "")
    if fault["type"] == "missing":
        return f"{file}{where} must be given"
    message = fault["msg"].removeprefix("Value error, ")
    given = "" if isinstance(fault["input"], dict) else f", got {fault['input']!r}"
    return f"{file}{where}: {message[0].lower()}{message[1:]}{given}"


def _known_keys(where: tuple[int | str, ...], root: type[Section]) -> list[str]:
    section: Any = root
    for part in where:
        if isinstance(part, str):
            section = next(_sections_in(section.model_fields[part].annotation))
    return list(section.model_fields)


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _sections_in(inner)


def _resolve_paths(recipe: Recipe, folder: Path) -> Recipe:
    def data(section: Any) -> Any:
        sources = tuple(
            source.model_copy(update={"path": str(folder / source.path)}) if is_text_file(source.path) else source
            for source in section.data
        )
        return section.model_copy(update={"data": sources})

    evaluate = data(recipe.evaluate)
    if evaluate.task is not None:
        task = evaluate.task.model_copy(update={"path": str(folder / evaluate.task.path)})
        evaluate = evaluate.model_copy(update={"task": task})
    depth_first = recipe.depth_first
    if depth_first is not None:
        depth_first = depth_first.model_copy(update={"distill": data(depth_first.distill)})
    return recipe.model_copy(
        update={
            "teacher": str(folder / recipe.teacher),
            "depth_first": depth_first,
            "score": data(recipe.score),
            "distill": data(recipe.distill),
            "evaluate": evaluate,
        }
    )
