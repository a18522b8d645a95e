"""The declared family that a configuration of another one is nearest to, and what differs: for a refusal that helps."""

import re
from collections.abc import Mapping

from minitron.models.families import FAMILIES, Family

# Keys that say how a model is built; others are settings of training, generation or numerics.
STRUCTURE = re.compile(
    r"(_size|_dim|_dims|_heads|_layers|_types?|_bias|_rank|_groups|_experts|_interval|_pattern|_kernel)$"
)
MOST_NAMED = 6


def nearest_family(config: Mapping[str, object]) -> str:
    """One sentence: which family has most of a configuration's keys, and which of its keys differ; empty for none."""
    family = max(FAMILIES.values(), key=lambda each: _likeness(config, each))
    if _likeness(config, family) <= 0:
        return ""
    unknown = sorted(_structure(config) - _keys(family))[:MOST_NAMED]
    lacking = sorted(_lacking(config, family))[:MOST_NAMED]
    wrong = sorted(key for key, allowed in family.only_values.items() if config.get(key) not in (None, *allowed))
    differs = [
        *([f"it does not know {', '.join(unknown)}"] if unknown else []),
        *([f"its {', '.join(lacking)} is missing"] if lacking else []),
        *([f"its {', '.join(wrong)} has another value"] if wrong else []),
    ]
    return (
        f"nearest is {family.model_type}: {'; '.join(differs) or 'the keys are its own, the modeling code is another'}"
    )


def _structure(config: Mapping[str, object]) -> set[str]:
    return {key for key, value in config.items() if STRUCTURE.search(key) and value not in (None, False, [], {})} - {
        "model_type"
    }


def _keys(family: Family) -> set[str]:
    lists = {each.key for each in family.pattern.lists} | family.pattern.rules.keys() | {"num_hidden_layers"}
    return {
        *family.only_values,
        *family.derived,
        *lists,
        *(key for keys in family.config_keys.values() for key in keys),
    }


def _lacking(config: Mapping[str, object], family: Family) -> set[str]:
    """Sizes that the family cannot do without, in its own spelling, of which the configuration has none."""
    optional = {*family.defaults, *(name for sizes in family.kind_sizes.values() for name in sizes)}
    spelt = [keys for name, keys in family.config_keys.items() if name not in optional]
    return {keys[0] for keys in spelt if not set(keys) & config.keys()}


def _likeness(config: Mapping[str, object], family: Family) -> int:
    given, known = _structure(config), _keys(family)
    return 2 * len(given & known) - len(given - known) - 2 * len(_lacking(config, family))
