"""How far a call that cuts and repairs a checkpoint has come, recorded beside the checkpoint."""

import logging
from collections.abc import Mapping
from pathlib import Path

from minitron.artifacts.header import STATE_FOLDER
from minitron.artifacts.resume import SavedState
from minitron.checkpoints.writing.journal import CONFIG_FILE
from minitron.distributed import Ranks

logger = logging.getLogger(__name__)


class PruningProgress:
    """The last step that a call has finished in its output folder, recorded beside it with its files' times of change.

    A repair writes weights in place: one that was interrupted leaves other times than recorded, and the cut is made
    again, since what is left of the repair's own state decides which blocks need their sliced weights.

    Args:
        output: The checkpoint's folder.
        identity: Everything that cut and repair depend on.
        ranks: The processes that make it together: the first one reads and records for all.

    Attributes:
        finished: `cut` or `repair`; None where nothing is finished, or not from the same inputs.
    """

    def __init__(self, output: Path, identity: Mapping[str, object], ranks: Ranks) -> None:
        self._output, self._ranks = output, ranks
        self._state = SavedState(output.with_name(STATE_FOLDER), identity)
        found = self._state.load_record("pruned") if ranks.is_main else None
        self.finished = ranks.broadcast(None if found is None or found["files"] != self._files() else found["step"])
        if self.finished is not None:
            logger.info("%s: finished before with the same inputs (%s)", output, self.finished)

    def save(self, step: str) -> None:
        """Records a finished step, which all processes have come to the end of."""
        if self._ranks.is_main:
            self._state.save_record("pruned", {"step": step, "files": self._files()})
        self.finished = step

    def _files(self) -> dict[str, list[int]]:
        found = [self._output / CONFIG_FILE, *self._output.glob("*.safetensors")]
        return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(found) if path.is_file()}
