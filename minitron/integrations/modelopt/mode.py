"""The mode "minitron" of NVIDIA ModelOpt: `mtp.prune(model, mode="minitron", ...)` on a plain Hugging Face model.

Importing this module registers the mode. Of ModelOpt only its mode and searcher interfaces are used (0.47,
modelopt/torch/opt/mode.py, modelopt/torch/opt/searcher.py): what is cut, and how, is minitron's.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, ClassVar, cast
from weakref import WeakKeyDictionary

import modelopt.torch.prune as mtp
import numpy as np
import torch
from modelopt.torch.nas.conversion import NASModeRegistry
from modelopt.torch.opt.config import ModeloptBaseConfig
from modelopt.torch.opt.conversion import ModeloptStateManager
from modelopt.torch.opt.mode import ModeDescriptor
from modelopt.torch.opt.searcher import BaseSearcher
from torch import nn
from transformers import PreTrainedModel

from minitron.errors import MinitronError
from minitron.importance.forward_loop import listen
from minitron.importance.scores import Scores, load_scores, save_scores, stale_parts
from minitron.importance.selection import select_units
from minitron.integrations.modelopt.constraints import BudgetSettings, check_constraints, check_keys, choose_shape
from minitron.models.config import shape_from_config
from minitron.models.shape import HybridShape
from minitron.models.slicing import Keep
from minitron.prune.in_memory import prune_in_place
from minitron.prune.plan import PrunePlan
from minitron.runtime.loading import config_of

logger = logging.getLogger(__name__)

MODE = "minitron"
SCORES_FILE = "scores.safetensors"

# The plan of a model between its search and the moment at which ModelOpt writes the state down.
_plans: "WeakKeyDictionary[nn.Module, PrunePlan]" = WeakKeyDictionary()


class MinitronConfig(ModeloptBaseConfig):  # type: ignore[misc]
    """The mode has no settings of its own: `mtp.prune` takes all of them in `config`."""


class MinitronSearcher(BaseSearcher):  # type: ignore[misc]
    """Calibrates by the caller's forward loop, chooses a shape, and prunes the model in place.

    `config` takes `forward_loop` (or `data_loader` with `collect_func`), every field of `BudgetSettings`, and `scores`
    (or ModelOpt's `checkpoint`): a file, or a folder of one, where the scores are kept and taken from when they are of
    this model.
    """

    best: dict[str, Any]
    scores: Scores | None
    _own: ClassVar[dict[str, Any]] = {"scores": None} | {
        setting.name: getattr(BudgetSettings(), setting.name) for setting in fields(BudgetSettings)
    }

    @property
    def default_search_config(self) -> dict[str, Any]:
        """Settings and their defaults."""
        return {**super().default_search_config, **self._own}

    @property
    def default_state_dict(self) -> dict[str, Any]:
        """What `mtp.prune` gives back: the chosen shape, and the scores it was chosen by."""
        return {"best": {}, "scores": None}

    def sanitize_search_config(self, config: dict[str, Any] | None) -> dict[str, Any]:
        """The settings with defaults.

        Raises:
            MinitronError: One is unknown, or two places for the scores are given.
        """
        try:
            check_keys(config or {}, self.default_search_config, "a setting of config")
            if config and config.get("scores") and config.get("checkpoint"):
                raise MinitronError("the scores' place must be given once, got both scores and checkpoint")
        except ValueError:
            _forget(self.model)
            raise
        settings: dict[str, Any] = super().sanitize_search_config(config)
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
                _forget(self.model)

    def _prune(self) -> None:
        model = cast(PreTrainedModel, self.model)
        source = _shape_of(model)
        settings = BudgetSettings(**{field.name: self.config[field.name] for field in fields(BudgetSettings)})
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
        _plans[model] = plan
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
        origin = None if path is None else {"model": _weights_hash(model)}
        if path is not None and origin is not None and path.is_file():
            scores = load_scores(path)
            stale = stale_parts(scores.origin, origin)
            if stale:
                raise MinitronError(f"scores must be of the model that is pruned, those in {path} are not: {stale[0]}")
            if self.forward_loop is not None:
                logger.warning(
                    "the scores in %s are of this model and taken as they are: forward_loop is not run", path
                )
            return scores
        if self.forward_loop is None:
            raise MinitronError("config must give a forward_loop that runs the calibration data, or a file of scores")
        scores = listen(model, source, self.forward_loop)
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


@NASModeRegistry.register_mode
@mtp.pruning.PruneModeRegistry.register_mode
class MinitronModeDescriptor(ModeDescriptor):  # type: ignore[misc]
    """Budget-first pruning of a hybrid Hugging Face model.

    The state that ModelOpt keeps (`mto.modelopt_state`, `mto.save`) holds the plan, so that restoring it on the
    original model cuts the same units.
    """

    @property
    def name(self) -> str:
        """The mode's name."""
        return MODE

    @property
    def config_class(self) -> type[ModeloptBaseConfig]:
        """The mode's own settings: none."""
        return MinitronConfig

    @property
    def export_mode(self) -> str:
        """The mode that ModelOpt enters when a search ends."""
        return "export_nas"

    @property
    def search_algorithm(self) -> type[BaseSearcher]:
        """What `mtp.prune` runs."""
        return MinitronSearcher

    @property
    def convert(self) -> Any:
        """Leaves the model as it is: nothing is made dynamic."""
        return _convert

    @property
    def restore(self) -> Any:
        """Cuts the original model as the state says; a model that has the pruned shape already stays."""
        return _restore

    @property
    def update_for_new_mode(self) -> Any:
        """Writes the plan of the search into the state."""
        return _write_plan


def _convert(model: nn.Module, config: ModeloptBaseConfig) -> tuple[nn.Module, dict[str, Any]]:
    _shape_of(model)
    return model, {}


def _restore(model: nn.Module, config: ModeloptBaseConfig, metadata: Mapping[str, Any]) -> nn.Module:
    if metadata:
        plan = _plan_of(metadata)
        if _shape_of(model) != plan.target:
            prune_in_place(cast(PreTrainedModel, model), plan)
    return model


def _write_plan(model: nn.Module, config: ModeloptBaseConfig, metadata: dict[str, Any]) -> None:
    plan = _plans.pop(model, None)
    if plan is not None:
        metadata |= {
            "source": asdict(plan.source),
            "target": asdict(plan.target),
            "layers": list(plan.keep.layers),
            "indices": [
                [axis, layer, torch.from_numpy(np.ascontiguousarray(kept))]
                for (axis, layer), kept in plan.keep.indices.items()
            ],
        }


def _plan_of(metadata: Mapping[str, Any]) -> PrunePlan:
    indices = {(axis, layer): kept.numpy() for axis, layer, kept in metadata["indices"]}
    return PrunePlan(
        source=HybridShape(**metadata["source"]),
        target=HybridShape(**metadata["target"]),
        keep=Keep(layers=tuple(metadata["layers"]), indices=indices),
    )


def _shape_of(model: nn.Module) -> HybridShape:
    if not isinstance(model, PreTrainedModel):
        raise MinitronError(f'mode "{MODE}" prunes a transformers model, got a {type(model).__name__}')
    return shape_from_config(config_of(model))


def _forget(model: nn.Module) -> None:
    _plans.pop(model, None)
    modes = [name for name, _ in ModeloptStateManager(model).state_dict()]
    if modes == [MODE]:  # a state with other modes is somebody's; an unfinished search changes nothing when restored
        ModeloptStateManager.remove_state(model)


def _weights_hash(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
