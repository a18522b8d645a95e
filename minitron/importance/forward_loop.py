"""Calibration by somebody else's loop: whatever is run through a model is heard, and becomes scores."""

# B samples, T tokens

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.distributed import Ranks
from minitron.errors import MinitronError
from minitron.importance.calibrate import CalibrationSettings, make_scores
from minitron.importance.depth.influence import BlockInfluence
from minitron.importance.experts import ExpertStatistics
from minitron.importance.scores import Scores
from minitron.importance.width import WidthStatistics
from minitron.models.shape import HybridShape
from minitron.runtime.stack import Block, MemoryStack


@torch.no_grad()
def listen(
    model: PreTrainedModel,
    shape: HybridShape,
    forward_loop: Callable[[nn.Module], object],
    settings: CalibrationSettings | None = None,
) -> Scores:
    """Width scores and block influence of a model over what a loop runs through it.

    An `attention_mask` of [B, T] that is passed to the forward says which tokens count.

    Args:
        model: The model, in evaluation mode.
        shape: Its shape.
        forward_loop: Calls the model on the calibration data.
        settings: Which scorers; those of `calibrate` when None. Depth is block influence.

    Raises:
        MinitronError: The model is in training mode, the loop runs nothing, a mask is not [B, T], or depth is to be
            scored by logits.
    """
    settings = settings or CalibrationSettings()
    if settings.depth is not None:
        raise MinitronError("depth must be scored by block influence where a loop of one's own is heard, got logits")
    blocks = list(MemoryStack(model, shape).blocks(range(shape.num_hidden_layers)))
    ear = _Ear(blocks, shape, settings)
    with ear.at(model.base_model):
        forward_loop(model)
    if not ear.num_tokens:
        raise MinitronError("the forward loop must run tokens through the model, it ran none")
    ear.width.finish(blocks, Ranks())
    ear.experts.finish(blocks, Ranks())
    return make_scores(
        {**ear.width.scores, **ear.experts.scores},
        ear.influence.result(Ranks()),
        (),
        num_samples=ear.num_samples,
        num_tokens=ear.num_tokens,
    )


class _Ear:
    """Hears each forward of a backbone with that forward's own mask, and counts what it heard."""

    def __init__(self, blocks: list[Block], shape: HybridShape, settings: CalibrationSettings) -> None:
        self._blocks = blocks
        self._heard = ExitStack()
        self.width = WidthStatistics(shape, settings.width)
        self.experts = ExpertStatistics(shape)
        self.influence = BlockInfluence(shape.num_hidden_layers)
        self.num_samples = self.num_tokens = 0

    @contextmanager
    def at(self, backbone: nn.Module) -> Iterator[None]:
        signature = inspect.signature(backbone.forward)

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = signature.bind(*args, **kwargs).arguments
            mask_BT = self._count(given)
            for collector in (self.width, self.experts, self.influence):
                self._heard.enter_context(collector.listening(self._blocks, mask_BT))

        def after(_module: nn.Module, _args: Any, _output: Any) -> None:
            self._heard.close()

        handles = [
            backbone.register_forward_pre_hook(before, with_kwargs=True),
            backbone.register_forward_hook(after, always_call=True),
        ]
        try:
            yield
        finally:
            self._heard.close()
            for handle in handles:
                handle.remove()

    def _count(self, given: dict[str, Any]) -> torch.Tensor | None:
        ids_BT = given.get("input_ids")
        shape_BT = (ids_BT if ids_BT is not None else given["inputs_embeds"]).shape[:2]
        mask_BT: torch.Tensor | None = given.get("attention_mask")
        if mask_BT is not None:
            if mask_BT.ndim != 2 or mask_BT.shape[0] != shape_BT[0] or mask_BT.shape[1] < shape_BT[1]:
                raise MinitronError(f"attention_mask must be {list(shape_BT)}, got {list(mask_BT.shape)}")
            mask_BT = mask_BT[:, -shape_BT[1] :].bool()  # with a cache it covers earlier tokens, too
        self.num_samples += shape_BT[0]
        self.num_tokens += shape_BT[0] * shape_BT[1] if mask_BT is None else int(mask_BT.sum())
        return None if mask_BT is None or bool(mask_BT.all()) else mask_BT
