"""Collectors are fed what passes hook sites, and whatever happens no hook stays on a module."""

from typing import Any

import pytest
import torch
from torch import nn

from minitron.importance.scorers import SCORERS
from minitron.importance.settings import SCORED_AXES, WidthScorer, WidthSettings
from minitron.runtime.hooks import Activations, HookSite, LatestActivation, collecting, collecting_outputs


class Recorder:
    def __init__(self) -> None:
        self.found: list[tuple[Activations, torch.Tensor | None]] = []

    def update(self, activations: Activations, mask_BT: torch.Tensor | None) -> None:
        self.found.append((activations, mask_BT))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 5)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.inner(hidden_states).sum(-1, keepdim=True) + hidden_states,)


def hooks_of(block: nn.Module) -> list[Any]:
    return [hook for module in block.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]


@pytest.mark.parametrize("named", [True, False])
def test_a_collector_gets_its_side_and_channels_of_every_pass(named: bool) -> None:
    block, mask_BT = Block(), torch.ones(2, 4, dtype=torch.bool)
    sites = {
        "input": HookSite(module="inner", side="input"),
        "output": HookSite(module="inner", side="output", channels=(1, 3)),
        "block": HookSite(side="both"),
    }
    recorders = {name: Recorder() for name in sites}
    x_BTC = torch.randn(2, 4, 3)
    with collecting([(block, site, recorders[name]) for name, site in sites.items()], mask_BT):
        for _ in range(2):
            (out,) = block(hidden_states=x_BTC) if named else block(x_BTC)
    expected = {"input": (x_BTC,), "output": (block.inner(x_BTC)[..., 1:3],), "block": (x_BTC, out)}
    for name, recorder in recorders.items():
        assert len(recorder.found) == 2
        for activations, mask in recorder.found:
            assert mask is mask_BT
            torch.testing.assert_close(activations, expected[name])
    block(x_BTC)
    assert all(len(recorder.found) == 2 for recorder in recorders.values())


def test_no_hook_is_left_when_a_pass_fails_or_a_site_does_not_exist() -> None:
    block = Block()
    attached = (block, HookSite(module="inner"), LatestActivation())
    with pytest.raises(RuntimeError), collecting([attached]):
        assert hooks_of(block)
        block(torch.randn(2, 4, 7))
    assert not hooks_of(block)
    missing = (block, HookSite(module="elsewhere"), LatestActivation())
    with pytest.raises(AttributeError), collecting([attached, missing]):
        pass
    assert not hooks_of(block)


def test_outputs_of_blocks_keep_their_gradients() -> None:
    blocks = [Block(), Block()]
    with collecting_outputs([(7, blocks[1])]) as latest:
        (first,) = blocks[0](torch.randn(2, 4, 3))
        (second,) = blocks[1](first)
    assert set(latest) == {7}
    assert latest[7].value is second
    assert latest[7].value.requires_grad


def test_every_scorer_has_a_setting() -> None:
    assert set(SCORERS) == set(WidthScorer.__args__)  # type: ignore[attr-defined]
    assert set(WidthSettings().scorers) == set(SCORED_AXES)
