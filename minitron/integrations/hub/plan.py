"""What an upload of a checkpoint would hold: its files by name, the card, and what is the matter with it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.header import HEADER_FILE, MARKER_FILE
from minitron.artifacts.json_files import JsonObject
from minitron.artifacts.yaml_text import YamlFaultError, parse_yaml
from minitron.checkpoints.checkpoint import (
    CARD_FILE,
    LINEAGE_FILE,
    PLAN_FILE,
    STUDENTS_FILE,
    VOCABULARY_FILE,
    Checkpoint,
    open_checkpoint,
)
from minitron.checkpoints.headers import INDEX_FILE
from minitron.checkpoints.hub import CONFIG_FILE, SMALL_FILES, hub_name
from minitron.checkpoints.lineage import read_lineage
from minitron.errors import CheckpointError
from minitron.pipeline.provenance import card_of
from minitron.pipeline.run_folder import RECIPE_FILE, STATUS_FILE
from minitron.pipeline.run_report.card_results import find_card_results

PARTIAL_SUFFIX = ".partial"  # of a folder that is being written
OWN_FILES = (CONFIG_FILE, LINEAGE_FILE, PLAN_FILE, VOCABULARY_FILE, STUDENTS_FILE, INDEX_FILE)
RUN_STATE = (HEADER_FILE, MARKER_FILE, STATUS_FILE, RECIPE_FILE, "trainer_state.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushPlan:
    """An upload before it is made.

    Attributes:
        checkpoint: The checkpoint's folder.
        repo: Repository, as owner/name.
        private: Whether a new repository is private.
        files: Name -> bytes of each file that is uploaded, the card included.
        left_out: Names of what lies beside them and stays here.
        card: The model card.
        problems: What is the matter with the card.
    """

    checkpoint: Path
    repo: str
    private: bool
    files: Mapping[str, int]
    left_out: tuple[str, ...]
    card: str
    problems: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    def to_json(self) -> JsonObject:
        """As JSON, without the card's text."""
        return {
            "checkpoint": str(self.checkpoint),
            "repo": self.repo,
            "private": self.private,
            "files": dict(self.files),
            "total_bytes": self.total_bytes,
            "left_out": [*self.left_out],
            "problems": [*self.problems],
        }


def plan_push(folder: Path, repo: str, *, private: bool) -> PushPlan:
    """What an upload of a checkpoint would hold; nothing is asked of the hub.

    The card is written anew where the checkpoint has a lineage, with what its run measured; else it is the one that is
    there.

    Args:
        folder: The checkpoint's folder.
        repo: Repository, as owner/name.
        private: Whether a new repository is private.

    Raises:
        CheckpointError: The folder is no whole checkpoint, is being written, or the repository's name cannot be one.
    """
    name = hub_name(repo)
    if name is None or name.revision is not None:
        raise CheckpointError(f"a repository must be owner/name, got {repo!r}")
    written = folder.resolve()
    if any(part.suffix == PARTIAL_SUFFIX or (part / MARKER_FILE).is_file() for part in (written, *written.parents)):
        raise CheckpointError(f"a checkpoint must be whole to be uploaded, {folder} is still being written")
    checkpoint = open_checkpoint(folder, quantized=True)
    card = _card(checkpoint, repo)
    names = sorted(path.name for path in folder.iterdir() if _belongs(path, checkpoint))
    files = {name: (folder / name).stat().st_size for name in names} | {CARD_FILE: len(card.encode())}
    return PushPlan(
        checkpoint=folder,
        repo=repo,
        private=private,
        files=dict(sorted(files.items())),
        left_out=tuple(sorted(path.name for path in folder.iterdir() if path.name not in files)),
        card=card,
        problems=tuple(card_problems(card)),
    )


def card_problems(card: str) -> Iterator[str]:
    """What the hub's readers would miss in a card."""
    if not card.startswith("---\n"):
        yield f"{CARD_FILE} is missing or has no header"
        return
    try:
        header = parse_yaml(card.split("---\n")[1])
    except YamlFaultError as error:
        yield f"the header of {CARD_FILE} must be YAML: {error}"
        return
    if not isinstance(header, dict):
        yield f"the header of {CARD_FILE} must be a mapping, it is a {type(header).__name__}"
        return
    base = header.get("base_model")
    if not isinstance(base, str) or hub_name(base) is None:
        yield f"base_model must be owner/name on the hub to be linked, it is {base!r}"
    if "license" not in header:
        yield "there is no license: the teacher's card names none"
    if "model-index" not in header:
        yield "there are no results: the checkpoint lies in no run that was evaluated"


def _card(checkpoint: Checkpoint, repo: str) -> str:
    lineage = read_lineage(checkpoint.folder)
    if lineage is not None and lineage["steps"]:
        return card_of(checkpoint, lineage, where=repo, results=find_card_results(checkpoint.folder))
    path = checkpoint.folder / CARD_FILE
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _belongs(path: Path, checkpoint: Checkpoint) -> bool:
    """Whether a file is the checkpoint's: its weights, or one of the small files that a model carries."""
    stored = (*checkpoint.tensors.values(), *checkpoint.extras.values(), *checkpoint.scales.values())
    if not path.is_file() or path.name.startswith(".") or path.name in (CARD_FILE, *RUN_STATE):
        return False
    is_own = path.name in OWN_FILES or path.name in {tensor.file.name for tensor in stored}
    return is_own or any(path.match(pattern) for pattern in SMALL_FILES)
