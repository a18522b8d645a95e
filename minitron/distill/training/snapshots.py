"""Weights of a training that are kept on disk beside its resumable state, by the step that they are of."""

import shutil
from collections.abc import Set
from pathlib import Path

from safetensors.torch import load_model, save_file

from minitron.distill.sharding import load_weights, save_weights
from minitron.distill.training.model import DistillationModel
from minitron.distill.training.resumed import reading_state
from minitron.distill.training.states import second_names
from minitron.distributed import Ranks
from minitron.errors import MinitronError

WEIGHTS_FILE = "model.safetensors"


class Snapshots:
    """Weights by step, each in a folder that appears when every process has written its part.

    All processes must call all methods alike.

    Args:
        folder: Where they lie.
        model: Whose weights.
        ranks: The processes.
        sharded: The weights are shards.
    """

    def __init__(self, folder: Path, model: DistillationModel, ranks: Ranks, *, sharded: bool) -> None:
        self._folder, self._model, self._ranks, self._sharded = folder, model, ranks, sharded

    def save(self, step: int) -> None:
        """Writes the weights as they are; what is there of that step stays."""
        final = self._path(step)
        if self._ranks.min(int(final.is_dir())):
            return
        partial = final.with_name(final.name + ".partial")
        if self._ranks.is_main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self._ranks.barrier()
        if self._sharded:
            save_weights(self._model, partial)
        elif self._ranks.is_main:
            state = self._model.state_dict()
            again = set(second_names(state))
            save_file(
                {name: tensor.contiguous() for name, tensor in state.items() if name not in again},
                partial / WEIGHTS_FILE,
            )
        self._ranks.barrier()
        if self._ranks.is_main:
            partial.rename(final)
        self._ranks.barrier()

    def load(self, step: int) -> None:
        """Puts the weights of a step back, in place.

        Raises:
            MinitronError: They are not there.
        """
        path = self._path(step)
        if not path.is_dir():
            raise MinitronError(
                f"kept weights must lie beside the state that is resumed, {path} is not there; remove {self._folder} "
                "to begin anew"
            )
        if self._sharded:
            load_weights(self._model, path)
        else:
            with reading_state(path):
                load_model(self._model, path / WEIGHTS_FILE)

    def keep_only(self, steps: Set[int]) -> None:
        """Removes the weights of all other steps."""
        if self._ranks.is_main:
            kept = {self._path(step) for step in steps}
            for path in self._folder.glob("weights-*"):
                if path not in kept:
                    shutil.rmtree(path)
        self._ranks.barrier()

    def _path(self, step: int) -> Path:
        return self._folder / f"weights-{step}"
