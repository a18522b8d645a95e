"""Rules about lists of layers: readers that go by an interval in their place, or know few names of kinds."""

from collections.abc import Iterator, Mapping

from minitron.integrations.readers.reader import Config, Family, Refusal, Rule
from minitron.models.shape import HybridShape

GRANITE_KINDS = {"H": "mamba", "T": "attention"}


def every_nth(letter: str, words: str, *, source: str, every: int, key: str | None = None) -> Rule:
    """Layers of one kind must be each so-many-th, and no others: the reader takes an interval and no list.

    Args:
        letter: The kind.
        words: What such layers do.
        source: Where the reader says so.
        every: The interval, where no key gives another.
        key: The key of `config.json` that gives the interval; None where the reader has but one.
    """

    def rule(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
        given = config.get(key) if key is not None else None
        interval = given if isinstance(given, int) and given > 0 else every
        pattern = shape.hybrid_override_pattern
        wanted = [layer for layer in range(len(pattern)) if (layer + 1) % interval == 0]
        found = shape.layers_of(letter)
        if found != wanted:
            yield Refusal(
                key=key or "num_hidden_layers",
                rule=f"leave layers that {words} at each {interval}. place, which is all that the reader knows of them",
                found=f"they are {', '.join(map(str, found)) or 'nowhere'} of {len(pattern)}",
                mend="keep layers in whole intervals, or serve with another reader",
                source=source,
            )

    return rule


def names_alone(key: str, names: Mapping[str, str]) -> Rule:
    """A list of layers must be given, in names that the reader knows.

    Args:
        key: The list's key.
        names: Letter -> the name of that kind.
    """

    def rule(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
        given = config.get(key)
        unknown = sorted({str(name) for name in given} - set(names.values())) if isinstance(given, list) else ["none"]
        if unknown:
            rule, mend = f"list layers as {' or '.join(names.values())}", "write it so, which newer readers take too"
            yield Refusal(key=key, rule=rule, found=f"got {', '.join(unknown)}", mend=mend, source=family.source)

    return rule


def always_tied(source: str) -> Rule:
    """The head must be the embeddings: the reader reads no other one."""

    def rule(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
        if not shape.tie_word_embeddings:
            yield Refusal(
                key="tie_word_embeddings",
                rule="be true",
                found="got false",
                mend="serve with another reader",
                source=source,
            )

    return rule
