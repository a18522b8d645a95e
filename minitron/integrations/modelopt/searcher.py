"""The search of mode "minitron": calibrates by the caller's forward loop, chooses a shape, prunes in place."""

import hashlib
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar, cast

import torch
from modelopt.torch.opt.searcher import BaseSearcher
from torch import nn
from transformers import PreTrainedModel

from minitron.artifacts.header import differences
from minitron.errors import MinitronError
from minitron.importance.forward_loop import score_forward_loop
from minitron.importance.scores import Scores, load_scores, save_scores
from minitron.importance.selection import select_units
from minitron.integrations.modelopt.constraints import (
    DEFAULT_SETTINGS,
    check_constraints,
    check_keys,
    choose_shape,
    read_settings,
)
from minitron.integrations.modelopt.plan_state import MODE, forget_plan, remember_plan
from minitron.models.config import shape_from_config
from minitron.models.shape import HybridShape
from minitron.prune.in_memory import prune_in_place
from minitron.prune.plan import PrunePlan
from minitron.runtime.building import config_of

logger = logging.getLogger(__name__)

SCORES_FILE = "scores.safetensors"


class MinitronSearcher(BaseSearcher):  # type: ignore[misc]
    """Calibrates by the caller's forward loop, chooses a shape, and prunes the model in place.

    `config` takes `forward_loop` (or `data_loader` with `collect_func`), every setting of `SearchSettings` and
    `Workload`, and `scores` (or ModelOpt's `checkpoint`): a file, or a folder of one, where the scores are saved, and
    loaded from when they are of this model.
    """

    best: dict[str, object]
    scores: Scores | None
    _own: ClassVar[dict[str, object]] = {"scores": None} | DEFAULT_SETTINGS

    @property
    def default_search_config(self) -> dict[str, object]:
        """Settings and their defaults."""
        return {**super().default_search_config, **self._own}

    @property
    def default_state_dict(self) -> dict[str, object]:
        """What `mtp.prune` gives back: the chosen shape, and the scores it was chosen by."""
        return {"best": {}, "scores": None}

    def sanitize_search_config(self, config: dict[str, object] | None) -> dict[str, object]:
        """The settings with defaults.

        Raises:
            MinitronError: One is unknown, or two places for the scores are given.
        """
        try:
            check_keys(config or {}, self.default_search_config, "a setting of config")
            if config and config.get("scores") and config.get("checkpoint"):
                raise MinitronError("the scores' place must be given once, got both scores and checkpoint")
        except ValueError:
            forget_plan(self.model)
            raise
        settings: dict[str, object] = super().sanitize_search_config(config)
        return settings

    def load_search_checkpoint(self, strict: bool = True) -> bool:
        """Nothing is loaded: scores are kept as safetensors and read where they are needed."""
        return False

    def run_search(self) -> None:
        """Calibrates, chooses and prunes; on failure the model is as it was, without ModelOpt's state."""
        training, pruned = self.model.training, False
        try:
            self._prune()
            pruned = True
        finally:  # whatever goes wrong in the caller's loop, the model is given back clean
            self.model.train(training)
            if not pruned:
                forget_plan(self.model)

    def _prune(self) -> None:
        model = cast(PreTrainedModel, self.model)
        source = model_shape(model)
        settings = read_settings(self.config)
        check_constraints(self.constraints, source, settings)
        model.eval()
        self.scores = self._calibrated(model, source)
        candidate = choose_shape(self.constraints, source, self.scores, settings)
        plan = PrunePlan(
            source=source,
            target=candidate.shape,
            keep=select_units(self.scores, source, candidate.shape, candidate.layers),
        )
        prune_in_place(model, plan)
        remember_plan(model, plan)
        self.best = {
            "shape": {axis: candidate.shape.sizes[axis] for axis in source.family.axes},
            "layers": list(candidate.layers),
            "params": candidate.shape.params,
            "memory": asdict(candidate.memory),
            "retained": candidate.retained,
        }
        logger.info("pruned %d to %d parameters in memory", source.params, candidate.shape.params)

    def _calibrated(self, model: PreTrainedModel, source: HybridShape) -> Scores:
        path = self._scores_path()
        origin = None if path is None else {"model": weights_hash(model)}
        if path is not None and origin is not None and path.is_file():
            scores = load_scores(path)
            stale = differences(scores.origin, origin)
            if stale:
                raise MinitronError(f"scores must be of the model that is pruned, those in {path} are not: {stale[0]}")
            if self.forward_loop is not None:
                logger.warning(
                    "the scores in %s are of this model and taken as they are: forward_loop is not run", path
                )
            return scores
        if self.forward_loop is None:
            raise MinitronError("config must give a forward_loop that runs the calibration data, or a file of scores")
        scores = score_forward_loop(model, source, self.forward_loop)
        if path is not None and origin is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            scores = replace(scores, origin=origin)
            save_scores(scores, path)
        return scores

    def _scores_path(self) -> Path | None:
        given = self.config["scores"] or self.config["checkpoint"]
        if given is None:
            return None
        path = Path(given)
        return path / SCORES_FILE if path.is_dir() or not path.suffix else path


def model_shape(model: nn.Module) -> HybridShape:
    """The shape of a loaded model.

    Raises:
        MinitronError: It is not a transformers model, or of no family that can be pruned.
    """
    if not isinstance(model, PreTrainedModel):
        raise MinitronError(f'mode "{MODE}" prunes a transformers model, got a {type(model).__name__}')
    return shape_from_config(config_of(model))


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of names, dtypes, shapes and bytes of everything in a model's state."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
