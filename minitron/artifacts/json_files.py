"""JSON files: typed values, written atomically (temporary name, sync, rename)."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

# What `json` reads and writes. Values are looked into by whoever knows the file's fields.
JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Writes a JSON object under a temporary name, syncs it and renames it into place."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
