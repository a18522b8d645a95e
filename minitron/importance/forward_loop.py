"""Scores a model while the caller's forward loop runs."""

# B samples, T tokens

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.distributed import Ranks
from minitron.errors import MinitronError
from minitron.importance.block_statistics import StatisticsCollector
from minitron.importance.calibrate import statistics_of
from minitron.importance.depth.influence import influence_scores
from minitron.importance.finish import make_scores
from minitron.importance.scores import Scores
from minitron.importance.settings import CalibrationSettings
from minitron.models.shape import HybridShape
from minitron.runtime.backbone import Block, backbone_of
from minitron.runtime.stack import MemoryStack


@torch.no_grad()
def score_forward_loop(
    model: PreTrainedModel,
    shape: HybridShape,
    forward_loop: Callable[[nn.Module], object],
    settings: CalibrationSettings | None = None,
) -> Scores:
    """Width scores and block influence of a model over the tokens that a loop runs through it.

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
    if settings.depth.scorer != "block_influence":
        raise MinitronError(f"a forward loop scores depth by block_influence, got {settings.depth.scorer}")
    blocks = list(MemoryStack(model, shape).blocks(range(shape.num_hidden_layers)))
    statistics = StatisticsCollector(statistics_of(settings, shape))
    with _scoring(backbone_of(model), blocks, statistics) as passes:
        forward_loop(model)
    if not passes.num_tokens:
        raise MinitronError("the forward loop must run tokens through the model, it ran none")
    statistics.finish(blocks, Ranks())
    return make_scores(
        statistics.scores,
        influence_scores(statistics.scores, shape.num_hidden_layers),
        (),
        num_samples=passes.num_samples,
        num_tokens=passes.num_tokens,
    )


class _Passes:
    """Counts the samples and tokens of forward passes, and reads their masks."""

    def __init__(self) -> None:
        self.num_samples = self.num_tokens = 0

    def count(self, given: Mapping[str, torch.Tensor | None]) -> torch.Tensor | None:
        """The mask of a pass by its named arguments, or None where all tokens count."""
        ids_BT = given.get("input_ids")
        inputs = ids_BT if ids_BT is not None else given["inputs_embeds"]
        assert inputs is not None
        shape_BT = inputs.shape[:2]
        mask_BT = given.get("attention_mask")
        if mask_BT is not None:
            if mask_BT.ndim != 2 or mask_BT.shape[0] != shape_BT[0] or mask_BT.shape[1] < shape_BT[1]:
                raise MinitronError(f"attention_mask must be {list(shape_BT)}, got {list(mask_BT.shape)}")
            mask_BT = mask_BT[:, -shape_BT[1] :].bool()  # with a cache it covers earlier tokens, too
        self.num_samples += shape_BT[0]
        self.num_tokens += shape_BT[0] * shape_BT[1] if mask_BT is None else int(mask_BT.sum())
        return None if mask_BT is None or bool(mask_BT.all()) else mask_BT


@contextmanager
def _scoring(backbone: nn.Module, blocks: Sequence[Block], statistics: StatisticsCollector) -> Iterator[_Passes]:
    """Collects every forward of a backbone with that forward's own mask, inside the `with`."""
    signature = inspect.signature(backbone.forward)
    passes, current = _Passes(), ExitStack()

    def before(_module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        mask_BT = passes.count(signature.bind(*args, **kwargs).arguments)
        current.enter_context(statistics.collecting(blocks, mask_BT))

    def after(_module: nn.Module, _args: object, _output: object) -> None:
        current.close()

    with ExitStack() as hooks:
        hooks.callback(backbone.register_forward_pre_hook(before, with_kwargs=True).remove)
        hooks.callback(backbone.register_forward_hook(after, always_call=True).remove)
        hooks.callback(current.close)
        yield passes
