"""Records where a checkpoint comes from: its teacher and every step since, in a file beside its weights."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from minitron.artifacts.json_files import JsonFaultError, JsonObject, JsonValue, as_json, parse_json, write_json
from minitron.artifacts.yaml_text import YamlFaultError, parse_yaml
from minitron.checkpoints.checkpoint import CARD_FILE, LINEAGE_FILE, Checkpoint
from minitron.checkpoints.hub import hub_origin
from minitron.errors import CheckpointError
from minitron.models.shape import NOT_SIZES

# Keys of a card's header that hold for whatever is made from the model, too.
CARRIED_KEYS = ("license", "license_name", "license_link", "language")
_CARD_HEADER = re.compile(r"\s*---\s*\n(?P<header>.*?)\n---\s*(\n|$)", re.DOTALL)
VERSIONED_PACKAGES = ("minitron", "torch", "transformers")
STEPS = ("vocabulary", "prune", "distill", "correct", "merge", "extract")


class TeacherRecord(TypedDict):
    """The model that a checkpoint was made from first.

    Of one from the hub, `hub` holds its repository and commit; `card` what its own card says that has to go on with it.
    """

    name: str
    params: int
    shape: dict[str, int | str]
    sha256: dict[str, str]
    hub: NotRequired[dict[str, str]]
    card: NotRequired[JsonObject]


class Lineage(TypedDict):
    """A teacher, and every step since: its name under `step`, its settings, and versions of packages."""

    teacher: TeacherRecord
    steps: list[JsonObject]


def lineage_of(checkpoint: Checkpoint, *, hashes: Mapping[str, str]) -> Lineage:
    """A checkpoint's lineage; one without a lineage file is its own teacher.

    Args:
        checkpoint: The checkpoint.
        hashes: Its hashes, which identify it where it is the teacher.

    Raises:
        CheckpointError: The folder's file is not a lineage.
    """
    found = read_lineage(checkpoint.folder)
    if found is not None:
        return found
    shape = {name: size for name, size in asdict(checkpoint.shape).items() if size}
    teacher: TeacherRecord = {
        "name": checkpoint_name(checkpoint),
        "params": checkpoint.params,
        "shape": shape,
        "sha256": dict(hashes),
    }
    origin = hub_origin(checkpoint.folder)
    if origin is not None:
        teacher["hub"] = asdict(origin)
    said = read_card_header(checkpoint.folder)
    carried = {key: said[key] for key in CARRIED_KEYS if key in said}
    if carried:
        teacher["card"] = carried
    return {"teacher": teacher, "steps": []}


def read_card_header(folder: Path) -> JsonObject:
    """The YAML header of a checkpoint's model card; empty where there is none, or none that can be read."""
    path = folder / CARD_FILE
    if not path.is_file():
        return {}
    found = _CARD_HEADER.match(path.read_text(encoding="utf-8", errors="replace"))
    try:
        header = None if found is None else parse_yaml(found["header"])
    except YamlFaultError:
        return {}
    return as_json(header) if isinstance(header, dict) else {}


def checkpoint_name(checkpoint: Checkpoint) -> str:
    """What a checkpoint is called: by the hub that it is from, by its configuration, else by its folder."""
    origin = hub_origin(checkpoint.folder)
    if origin is not None:
        return origin.repo
    return str(checkpoint.config.get("_name_or_path") or checkpoint.folder.resolve().name)


def read_lineage(folder: Path) -> Lineage | None:
    """The lineage in a checkpoint folder; None where there is none.

    Raises:
        CheckpointError: The file is not a lineage.
    """
    path = folder / LINEAGE_FILE
    if not path.is_file():
        return None
    try:
        lineage = parse_json(path.read_bytes())
    except JsonFaultError as error:
        raise CheckpointError(f"{path} must be an object with a teacher and steps, it {error}") from error
    if not _is_lineage(lineage):
        raise CheckpointError(f"{path} must be an object with a teacher and steps")
    return cast(Lineage, lineage)


def _is_lineage(value: JsonValue) -> bool:
    """Whether a value has every field of a lineage, of its type; a step may hold anything beside its name."""
    match value:
        case {
            "teacher": {
                "name": str(),
                "params": int(),
                "shape": {"hybrid_override_pattern": str(), **sizes},
                "sha256": dict(hashes),
                **others,
            },
            "steps": list(steps),
        }:
            hub = others.get("hub", {"repo": "", "commit": ""})
            return (
                all(type(size) is int or name in NOT_SIZES for name, size in sizes.items())
                and all(isinstance(digest, str) for digest in hashes.values())
                and isinstance(hub, dict)
                and all(isinstance(hub.get(key), str) for key in ("repo", "commit"))
                and all(isinstance(step, dict) and step.get("step") in STEPS for step in steps)
            )
    return False


def add_step(lineage: Lineage, step: str, **settings: object) -> Lineage:
    """The lineage with one more step: its name, its settings, and the versions of the packages that took it."""
    versions = {package: version(package) for package in VERSIONED_PACKAGES}
    # As it will be read back.
    taken: JsonObject = json.loads(json.dumps({"step": step, **settings, "versions": versions}))
    return {"teacher": lineage["teacher"], "steps": [*lineage["steps"], taken]}


def write_lineage(lineage: Lineage, folder: Path) -> None:
    """Writes a lineage beside a checkpoint's weights."""
    write_json(folder / LINEAGE_FILE, lineage)
