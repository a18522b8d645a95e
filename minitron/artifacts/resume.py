"""Saved state of interruptible work: JSON records and tensors, tied to the inputs they belong to."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from minitron.artifacts.atomic import replacing
from minitron.artifacts.header import differences
from minitron.artifacts.json_files import JsonObject, as_json, parse_json, read_json, write_json
from minitron.errors import ArtifactError

logger = logging.getLogger(__name__)


class SavedState:
    """What an interrupted call left for the next one, one file a name, each replaced atomically.

    A file that was saved for other inputs, or that cannot be read, is never used: it is removed with a warning, and the
    work it stood for is done anew.

    Args:
        folder: Where the files lie, made when the first one is saved; None to save nothing and find nothing.
        identity: Everything that the saved state depends on. Resuming with a state of other inputs would end with
            another result.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, object]) -> None:
        self.folder = folder
        self.identity = as_json(identity)

    def save_record(self, name: str, record: Mapping[str, object]) -> None:
        """Replaces a JSON record."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(record_file(self.folder, name), {"identity": self.identity, "record": record})

    def load_record(self, name: str) -> JsonObject | None:
        """A JSON record, or None where there is none of the same inputs."""
        if self.folder is None or not (path := record_file(self.folder, name)).is_file():
            return None
        try:
            found = read_json(path)
        except ArtifactError as error:
            self._drop(path, str(error))
            return None
        identity, record = found.get("identity"), found.get("record")
        if not isinstance(identity, dict) or not isinstance(record, dict):
            self._drop(path, "it is not a saved record")
            return None
        return record if self._is_same(path, identity) else None

    def save_tensors(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Replaces a file of tensors."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        on_cpu = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        with replacing(self.folder / f"{name}.safetensors") as partial:
            save_file(on_cpu, partial, metadata={"identity": json.dumps(self.identity)})

    def load_tensors(self, name: str) -> dict[str, torch.Tensor] | None:
        """Saved tensors on the CPU, or None where there are none of the same inputs."""
        if self.folder is None or not (path := self.folder / f"{name}.safetensors").is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                identity = parse_json((file.metadata() or {})["identity"])
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            self._drop(path, f"it cannot be read: {error}")
            return None
        if not isinstance(identity, dict):
            self._drop(path, "it does not say what it belongs to")
            return None
        return tensors if self._is_same(path, identity) else None

    def _is_same(self, path: Path, identity: JsonObject) -> bool:
        changed = differences(identity, self.identity)
        if changed:
            logger.warning(
                "%s is left from an interrupted attempt with other inputs and is cleared; that work is done anew (%s)",
                path,
                "; ".join(changed),
            )
            path.unlink()
            return False
        logger.info("resuming from %s", path)
        return True

    def _drop(self, path: Path, fault: str) -> None:
        logger.warning("%s is cleared and its work is done anew: %s", path, fault)
        path.unlink()


def record_file(folder: Path, name: str) -> Path:
    """Where a record lies."""
    return folder / f"{name}.json"
