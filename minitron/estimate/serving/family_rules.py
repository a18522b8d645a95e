"""Rules that a serving engine has about the shapes of some families: which it reads, and how it takes their heads."""

from collections.abc import Mapping

from minitron.estimate.serving.shape_rules import ShapeRule
from minitron.models.axes import SizeT
from minitron.models.families import FAMILIES


def families_among(known: tuple[str, ...], source: str) -> ShapeRule:
    """A model must be of a family that was looked at: of others it is not known how the reader takes them."""
    others = tuple(name for name in FAMILIES if name not in known)
    return _refused(others, f"be one of {', '.join(known)}, other families were not looked at", source)


def refuses(families: tuple[str, ...], because: str, source: str) -> ShapeRule:
    """A model must be of another family: the reader itself refuses these."""
    return _refused(families, f"be another family, {because}", source)


def _refused(families: tuple[str, ...], states: str, source: str) -> ShapeRule:
    return ShapeRule(
        key="model_type", families=families, holds=lambda _, __, ___: False, states=lambda _, __: states, source=source
    )


def heads_fill_hidden(families: tuple[str, ...], source: str) -> ShapeRule:
    """Heads must have hidden_size / num_attention_heads channels, as the reader takes it whatever head_dim says."""

    def holds(_: object, sizes: Mapping[str, SizeT], __: object) -> object:
        heads = sizes["num_attention_heads"]
        return (heads == 0) | (heads * sizes["head_dim"] == sizes["hidden_size"])

    def states(sizes: Mapping[str, int], _: object) -> str:
        return (
            f"make hidden_size={sizes['hidden_size']} with head_dim={sizes['head_dim']}, which the reader does not read"
        )

    return ShapeRule(key="num_attention_heads", families=families, holds=holds, states=states, source=source)


def mamba_is_twice_hidden(families: tuple[str, ...], source: str) -> ShapeRule:
    """Mamba heads times channels must be twice the hidden size, as the reader takes them to be."""
    return ShapeRule(
        key="mamba_num_heads",
        kinds="H",
        families=families,
        holds=lambda _, sizes, __: sizes["mamba_num_heads"] * sizes["mamba_head_dim"] == 2 * sizes["hidden_size"],
        states=lambda sizes, _: (
            f"make twice hidden_size={sizes['hidden_size']} with mamba_head_dim={sizes['mamba_head_dim']}"
        ),
        source=source,
    )


def heads_divide_hidden(families: tuple[str, ...], source: str) -> ShapeRule:
    """The hidden size must be a multiple of the number of heads, whatever head_dim says."""
    return ShapeRule(
        key="num_attention_heads",
        families=families,
        holds=lambda _, sizes, __: sizes["hidden_size"] % sizes["num_attention_heads"] == 0,
        states=lambda sizes, _: f"divide hidden_size={sizes['hidden_size']}",
        source=source,
    )


def lacks(families: tuple[str, ...], kinds: str, words: str, source: str) -> ShapeRule:
    """A model of some families must have no block of some kinds."""
    return ShapeRule(
        key="num_hidden_layers",
        kinds=kinds,
        families=families,
        holds=lambda _, __, ___: False,
        states=lambda _, __: f"count no {words}",
        source=source,
    )
