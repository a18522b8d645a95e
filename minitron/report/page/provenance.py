"""Where the run's results come from: stages, settings, hashes and lineage."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from minitron.artifacts.header import ArtifactHeader
from minitron.artifacts.json_files import JsonObject
from minitron.report.page.parts import Folded, Part, Section, Table, missing


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """A stage of the run.

    Attributes:
        name: Its name.
        does: What it does.
        state: What became of it.
        header: What its result says of itself; None where it has none.
    """

    name: str
    does: str
    state: str
    header: ArtifactHeader | None


def provenance_section(
    stages: Sequence[StageRow], settings: Mapping[str, object], lineage: Mapping[str, object] | None
) -> Section:
    """Stages with their hashes, every setting, and the student's lineage."""
    rows = tuple((stage.name, stage.does, stage.state, *_of_header(stage.header)) for stage in stages)
    parts: list[Part] = [
        Table(columns=("stage", "does", "state", "written", "SHA-256 of its inputs", "made by"), rows=rows),
        Folded(label="Every setting", text="\n".join(f"{key} = {value}" for key, value in flat(settings))),
    ]
    if lineage is None:
        parts.append(missing("No checkpoint has been written yet, so there is no lineage."))
    else:
        parts.append(Folded(label="Lineage of the student (lineage.json)", text=json.dumps(lineage, indent=2)))
    return Section(name="provenance", title="Settings, hashes, lineage", parts=tuple(parts))


def _of_header(header: ArtifactHeader | None) -> tuple[str, str, str]:
    if header is None:
        return "", "", ""
    made_by = ", ".join(f"{package} {version}" for package, version in header.versions.items())
    return header.written_at, header.inputs_hash, made_by


def flat(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings by their path, as `--set` takes them.

    >>> list(flat({"distill": {"tokens": 5, "data": [{"path": "a"}]}, "seed": 0}))
    [('distill.tokens', '5'), ('distill.data', '[{"path": "a"}]'), ('seed', '0')]
    """
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)


def settings_of(recipe: JsonObject) -> JsonObject:
    """The sections of a recipe that say something: what is null is left out."""
    return {key: value for key, value in recipe.items() if value is not None}
