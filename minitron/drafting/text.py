"""A first recipe as text: a line a setting, with what speaks for it beside those that a user may want to change."""

from collections.abc import Mapping

import yaml

# Setting -> what is written behind it.
REMARKS = {
    "devices.gpus_per_node": "the fewest of 1, 2, 4 and 8 that hold the training, by the dry run's estimate",
    "score.samples": "1024 as published (2407.14679)",
    "score.layerwise": "one block in memory at a time",
    "evaluate.layerwise": "one block in memory at a time",
    "budget.context_tokens": "tokens that each served sequence holds",
    "budget.readers": "engines that must take the student",
    "search.num_hidden_layers": "blocks; the first size of each axis is the teacher's",
    "search.keep_attention": "two thirds of the attention blocks stay, as in 2508.14444",
    "search.choose": "what keeps most of the scores; tournament measures: docs, guides/search",
    "prune.repair": "refits what the cut left in closed form, before a token is trained on",
    "distill.tokens": "a first result takes some; the published run took 15 a parameter (2508.14444)",
    "distill.learning_rate": "found by short trials",
    "distill.gradient_checkpointing": "recomputes blocks in the backward pass, to save memory",
    "distill.teacher": "online: it runs beside the student; cached: its best tokens are stored first",
    "evaluate.speed": "{} measures it, which takes minutes",
}


def recipe_text(values: Mapping[str, object], heading: str) -> str:
    """A recipe's YAML, a section after the other.

    Args:
        values: Its sections.
        heading: The comment above it, lines of its own.
    """
    lines = [f"# {line}" for line in heading.splitlines()]
    for key, value in values.items():
        if not isinstance(value, Mapping):
            lines.append(_line(key, value, key, ""))
            continue
        lines += ["", f"{key}:"]
        lines += [_line(name, setting, f"{key}.{name}", "  ") for name, setting in value.items()]
    return "\n".join(lines) + "\n"


def _line(name: str, value: object, place: str, indent: str) -> str:
    remark = f"  # {REMARKS[place]}" if place in REMARKS else ""
    return f"{indent}{name}: {_written(value)}{remark}"


def _written(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=2**16, allow_unicode=True)
    return text.removesuffix("...\n").rstrip("\n")  # the mark that ends a document behind a plain value
