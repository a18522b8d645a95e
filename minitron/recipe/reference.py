"""Describes every setting of a recipe, for the reference page: its key, type, default and meaning. Loads no torch."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from minitron.recipe.recipe import Recipe
from minitron.settings import Settings

JsonSchema: TypeAlias = Mapping[str, Any]

REQUIRED = "required"
TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "pattern": "matches"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """A setting of a recipe.

    Attributes:
        key: Its place, with dots between levels and `[]` behind a list, as in `distill.phases[].tokens`.
        type: What it holds, limits included, in words; `section` where settings lie below it.
        default: The value where it is left out, as YAML; `required` where it must be given, empty for sections.
        description: What it means, with its unit and the source of its default.
    """

    key: str
    type: str
    default: str
    description: str


def describe_recipe(kind: type[Settings] = Recipe) -> list[SettingRow]:
    """One row for each setting in the order of the sections, each section before what lies below it.

    What several sections have alike, such as a source of text, is described once, where its key is shortest.

    >>> rows = {row.key: row for row in describe_recipe()}
    >>> rows["distill.batch_size"].type, rows["distill.batch_size"].default
    ('integer ≥ 1', '8')
    """
    schema = kind.model_json_schema()
    models: JsonSchema = {f"#/$defs/{name}": model for name, model in schema.get("$defs", {}).items()}
    return list(_rows("", schema, models, _homes(schema, models)))


def _rows(prefix: str, section: JsonSchema, models: JsonSchema, homes: Mapping[str, str]) -> Iterator[SettingRow]:
    for name, field in section["properties"].items():
        key, below = prefix + name, list(_models_in(field))
        place = key + "[]" * _is_list(field)
        texts = [field.get("description") or next((models[model]["description"] for model in below), "")]
        texts += [f"Described at `{homes[model]}`." for model in below if homes[model] != place]
        default = "" if isinstance(field.get("default"), dict) else json.dumps(field.get("default"), ensure_ascii=False)
        yield SettingRow(
            key=key,
            type=_type(field),
            default=REQUIRED if name in section.get("required", ()) else default,
            description=" ".join(" ".join(texts).split()),
        )
        for model in below:
            if homes[model] == place:
                yield from _rows(f"{place}.", models[model], models, homes)


def _homes(schema: JsonSchema, models: JsonSchema) -> dict[str, str]:
    # Model -> the shortest place where it is found, level by level.
    homes: dict[str, str] = {}
    level = [("", schema)]
    while level:
        found = [
            (f"{prefix}{name}{'[]' * _is_list(field)}", model)
            for prefix, section in level
            for name, field in section["properties"].items()
            for model in _models_in(field)
        ]
        fresh = [(place, model) for place, model in found if homes.setdefault(model, place) == place]
        level = [(f"{place}.", models[model]) for place, model in fresh]
    return homes


def _choices(field: JsonSchema) -> list[JsonSchema]:
    return [*field.get("anyOf", ()), *field.get("oneOf", ()), *field.get("allOf", ())]


def _models_in(field: JsonSchema) -> Iterator[str]:
    if "$ref" in field:
        yield field["$ref"]
    for part in (*_choices(field), *([field["items"]] if "items" in field else [])):
        yield from _models_in(part)


def _is_list(field: JsonSchema) -> bool:
    return any("$ref" in part.get("items", {}) for part in (field, *_choices(field)))


def _type(field: JsonSchema) -> str:
    if "$ref" in field:
        return "section"
    if choices := _choices(field):
        words = [word for word in map(_type, choices) if word != "null"]
        return " or ".join(words + ["null"] * (len(words) < len(choices)))
    if "enum" in field or "const" in field:
        return " | ".join(str(value) for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])}: {', '.join(map(_type, field['prefixItems']))}"
        inner = _type(field["items"])
        return f"list of {'sections' if inner == 'section' else inner}"
    if field.get("type") == "object":
        return f"names, each with {_type(field['additionalProperties'])}"
    limits = [f"{sign} {field[name]}" for name, sign in LIMITS.items() if name in field]
    return " ".join([TYPES[field["type"]], ", ".join(limits)]).strip()
