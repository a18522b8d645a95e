"""Random shapes of every family whose dims are all distinct and above 1, and random plans of pruning them."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from minitron.models.axes import Axis, Indices
from minitron.models.families import FAMILIES
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape
from minitron.prune.laws.random_keep import random_rows
from minitron.prune.laws.tiny_shape import tiny_shape
from minitron.prune.plan import PrunePlan

Draw = Callable[..., Any]

seeds = st.integers(0, 2**16)


class Distinct:
    """Draws numbers that were not drawn before."""

    def __init__(self, draw: Draw) -> None:
        self._draw, self._used = draw, {1}

    def among(self, numbers: Iterable[int]) -> int:
        found: int = self._draw(st.sampled_from([number for number in numbers if number not in self._used]))
        self._used.add(found)
        return found

    def grouped(self, groups: Iterable[int], per_group: Iterable[int]) -> tuple[int, int]:
        """A number of groups and a multiple of it."""
        chosen = self.among(groups)
        return chosen, self.among(chosen * each for each in per_group)


@st.composite
def shapes(
    draw: Draw, *, model_types: Iterable[str] = tuple(FAMILIES), kinds: str | None = None, every_kind: bool = False
) -> HybridShape:
    """A shape of two to four blocks; of one or two more than kinds of them, where every kind must be there.

    Args:
        draw: hypothesis's.
        model_types: The families.
        kinds: Letters of the blocks; all of the family's when None.
        every_kind: Whether each of the letters must be there.
    """
    model_type = draw(st.sampled_from(sorted(model_types)))
    letters = "".join(FAMILIES[model_type].block_kinds) if kinds is None else kinds
    if model_type == "mistral":  # its configurations give all blocks a window, or none
        letters = draw(st.sampled_from(letters))
    blocks = draw(st.lists(st.sampled_from(letters), min_size=2 - every_kind, max_size=2 if every_kind else 4))
    pattern = "".join(draw(st.permutations([*letters, *blocks])) if every_kind else blocks)
    if model_type not in DRAWN:
        return random_shape(model_type, pattern, draw(seeds))
    return HybridShape(model_type=model_type, hybrid_override_pattern=pattern, **DRAWN[model_type](draw))


@functools.lru_cache(maxsize=1024)
def random_shape(model_type: str, pattern: str, seed: int) -> HybridShape:
    """A shape with distinct dims; of a family with sizes that go together, as hypothesis alone would seldom find."""
    shape = tiny_shape(model_type, pattern, seed=seed)
    # Gemma's configurations have a window even where no block looks through it.
    return dataclasses.replace(shape, sliding_window=3) if model_type == "gemma3_text" else shape


def _hybrid(draw: Draw) -> dict[str, int]:
    new = Distinct(draw)
    n_group = draw(st.sampled_from([1, 2, 3]))
    if n_group > 1:
        new.among([n_group])
    chosen = new.among([2, 3, 4])
    experts = new.among(n_group * each for each in range(3, 20) if 5 <= n_group * each <= 20)
    n_groups, heads = new.grouped([2, 3, 4, 5], [2, 3, 4, 5])
    kv, queries = new.grouped([2, 3, 4, 5, 6], [2, 3, 4, 5])
    hidden = new.among(range(13, 24))
    # Inner widths are unlike the hidden one, so that input and output projections are never square.
    head_dim = new.among(k for k in range(4, 15) if hidden not in (queries * k, kv * k))
    return {
        "vocab_size": new.among(range(60, 80)),
        "hidden_size": hidden,
        "num_attention_heads": queries,
        "num_key_value_heads": kv,
        "head_dim": head_dim,
        "conv_kernel": new.among(range(2, 14)),
        "mamba_num_heads": heads,
        "mamba_head_dim": new.among(p for p in range(3, 17) if heads * p != hidden),
        "n_groups": n_groups,
        "ssm_state_size": new.among(range(3, 19)),
        "num_experts_per_tok": chosen,
        "n_group": n_group,
        "topk_group": min(2, n_group),
        "n_routed_experts": experts,
        "intermediate_size": new.among(range(7, 40)),
        "moe_intermediate_size": new.among(range(5, 30)),
        "moe_shared_expert_intermediate_size": new.among(range(5, 30)),
        "moe_latent_size": draw(st.sampled_from([0, new.among(range(6, 30))])),
    }


def _dense(draw: Draw) -> dict[str, int]:
    new = Distinct(draw)
    kv, queries = new.grouped([2, 3, 4], [2, 3])
    hidden = new.among(queries * each for each in range(2, 7))
    return {
        "vocab_size": new.among(range(60, 80)),
        "hidden_size": hidden,
        "intermediate_size": new.among(range(7, 40)),
        "num_attention_heads": queries,
        "num_key_value_heads": kv,
        # Rotary positions turn pairs of channels.
        "head_dim": new.among(k for k in range(4, 20, 2) if hidden not in (queries * k, kv * k)),
        "tie_word_embeddings": draw(st.sampled_from([0, 1])),
    }


DRAWN: Mapping[str, Callable[[Draw], dict[str, int]]] = {
    "nemotron_h": _hybrid,
    **dict.fromkeys(("llama", "qwen2", "qwen3", "smollm3"), _dense),
}


def tokens(shape: HybridShape, seed: int, *, batch: int = 2, length: int = 11) -> torch.Tensor:
    """[B, T] random ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, shape.vocab_size, (batch, length), generator=generator)


@st.composite
def plans(
    draw: Draw,
    shape: HybridShape,
    *,
    axes: Iterable[str] | None = None,
    full_width: bool = False,
    drop_blocks: bool = True,
) -> PrunePlan:
    """A plan that keeps random units in a random or ascending order, and random blocks.

    Args:
        draw: hypothesis's.
        shape: The source.
        axes: The axes that are cut; a random choice of them when None.
        full_width: Keep everything, in a random order.
        drop_blocks: Whether blocks may go.
    """
    family = shape.family
    layers = tuple(range(shape.num_hidden_layers))
    if drop_blocks:
        layers = tuple(sorted(draw(st.sets(st.sampled_from(layers), min_size=1))))
    shuffled = full_width or draw(st.booleans())
    there = {axis.name for axis in family.axes.values() if shape.sizes[axis.name] and shape.places_of(axis, layers)}
    asked = there if axes is None else there & set(axes)
    cut = {name for name in sorted(asked) if axes is not None or draw(st.booleans())}
    # Units that are grouped by an axis go with its entries.
    cut |= {owned for owner, owned in family.owners.items() if owner in cut}
    counts = {name: shape.sizes[name] for name in cut} if full_width else draw(counts_of(shape, cut))
    indices: dict[tuple[str, int | None], Indices] = {}
    for axis in family.axes.values():
        if axis.name in cut:
            rng = np.random.default_rng(draw(seeds))
            for layer in shape.places_of(axis, layers):
                groups = indices.get((axis.grouped_by or "", layer))
                indices[axis.name, layer] = choose_rows(
                    rng, shape, axis, counts[axis.name], shuffled=shuffled, groups=groups
                )
    keep = Keep(layers=layers, indices=indices)
    return PrunePlan(source=shape, target=keep.shape(shape), keep=keep)


@st.composite
def counts_of(draw: Draw, shape: HybridShape, cut: set[str]) -> dict[str, int]:
    """How many units of each axis are kept: any numbers that the family can have together."""
    family = shape.family
    options = {name: possible_counts(shape, family.axes[name]) for name in sorted(cut)}
    linked = {name for rule in family.multiples for name in (*rule.sizes, *rule.of)}
    linked |= {name for pair in family.owners.items() for name in pair}
    together = sorted(linked & cut)
    meshed = np.meshgrid(*(options[name] for name in together), indexing="ij")
    chosen = {name: mesh.ravel() for name, mesh in zip(together, meshed, strict=True)}
    possible = np.broadcast_to(
        family.is_possible({**shape.sizes, **chosen}, shape.sizes), meshed[0].size if together else 1
    )
    at = draw(st.sampled_from(np.flatnonzero(possible).tolist()))
    apart = {name: draw(st.sampled_from(options[name])) for name in options if name not in together}
    return apart | {name: int(numbers[at]) for name, numbers in chosen.items()}


def possible_counts(shape: HybridShape, axis: Axis) -> list[int]:
    """Numbers of units that may be kept, were it this axis alone."""
    whole = axis.grouped_by is None or axis.grouped_by in shape.family.axes
    groups = 1 if whole else shape.sizes[axis.grouped_by or ""]
    # transformers ranks a group of experts by its two best, and a token must find all of its experts in two groups.
    least = 1 if axis.at_least is None else axis.at_least(shape.sizes)
    return [count for count in range(groups, shape.sizes[axis.name] + 1, groups) if count >= least]


def choose_rows(
    rng: np.random.Generator,
    shape: HybridShape,
    axis: Axis,
    kept: int,
    *,
    shuffled: bool = False,
    groups: Indices | None = None,
) -> Indices:
    """Kept indices of an axis in one block, in random order or ascending inside each group that is kept."""
    rows = random_rows(shape, axis, rng, size=kept, groups=groups)
    if shuffled:
        return rows
    number = 1 if axis.grouped_by is None else shape.sizes[axis.grouped_by] if groups is None else len(groups)
    by_group = rows.reshape(*rows.shape[:-1], number, -1)
    return np.sort(by_group, axis=-1).reshape(rows.shape)
