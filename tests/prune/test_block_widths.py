"""FFN widths that differ by block: cut, written, opened and loaded, here and by plain transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.errors import MinitronError
from minitron.models.config import shape_from_config
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.in_memory import prune_model
from minitron.prune.plan import PrunePlan, load_plan, save_plan
from minitron.runtime.backbone import blocks_of
from minitron.runtime.loading import load_model, set_time_step_limit
from minitron.runtime.saving import save_model
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_shape, write_tiny_checkpoint

IDS = torch.tensor([[5, 77, 103, 9, 250, 41, 168, 33]])
# Blocks with an FFN: 1, 4 and 7 of 8, two of which stay; all three layers.
SHAPES = {"nemotron_h": make_tiny_shape(hybrid_override_pattern="M-*M-M*-"), "llama": make_dense_shape("llama")}
KEPT_LAYERS = {"nemotron_h": (0, 1, 2, 3, 5, 6, 7), "llama": (0, 1, 2)}
FFN = {"nemotron_h": ("mixer", ("up_proj",)), "llama": ("mlp", ("gate_proj", "up_proj"))}
WIDTHS = {"nemotron_h": (9, 15), "llama": (7, 37, 10)}


def make_plan(shape: HybridShape, *, hidden: int | None = None) -> PrunePlan:
    """A random choice of neurons, and of hidden channels where they are cut, too."""
    rng, layers = np.random.default_rng(3), KEPT_LAYERS[shape.model_type]
    indices: dict[tuple[str, int | None], Any] = {}
    with_ffn = [layer for layer in layers if layer in shape.ffn_layers]
    for layer, width in zip(with_ffn, WIDTHS[shape.model_type], strict=True):
        indices["intermediate_size", layer] = np.sort(rng.permutation(shape.intermediate_size)[:width])
    if hidden is not None:
        indices["hidden_size", None] = np.sort(rng.permutation(shape.hidden_size)[:hidden])
    keep = Keep(layers=layers, indices=indices)
    return PrunePlan(source=shape, target=keep.shape(shape), keep=keep)


@pytest.fixture(params=SHAPES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "source", shape=SHAPES[request.param])


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    found: torch.Tensor = model(IDS, use_cache=False).logits
    return found


@torch.no_grad()
def zero_neurons(model: PreTrainedModel, plan: PrunePlan) -> None:
    """Zeroes what does not survive of the FFNs, and all that other blocks that go write, in place."""
    name, readers = FFN[plan.source.model_type]
    for layer, block in enumerate(blocks_of(model)):
        if layer not in plan.keep.layers:
            for parameter in block.parameters():
                parameter.zero_()
        elif ("intermediate_size", layer) in plan.keep.indices:
            gone = np.setdiff1d(np.arange(plan.source.intermediate_size), plan.keep.indices["intermediate_size", layer])
            ffn: nn.Module = block.get_submodule(name)
            for reader in readers:
                ffn.get_parameter(f"{reader}.weight")[gone] = 0.0
            ffn.get_parameter("down_proj.weight")[:, gone] = 0.0


def test_a_student_of_unequal_widths_computes_what_zeroed_neurons_leave(source: Path) -> None:
    shape = open_checkpoint(source).shape
    plan, teacher = make_plan(shape), load_model(source, dtype=torch.float64)
    assert plan.target.block_widths == WIDTHS[shape.model_type]
    student = prune_model(teacher, plan)
    whole = logits(teacher)
    zero_neurons(teacher, plan)
    torch.testing.assert_close(logits(student), logits(teacher), rtol=1e-9, atol=1e-9)
    assert (logits(student) - whole).abs().max() > 1e-2


def test_a_checkpoint_of_unequal_widths_is_counted_and_loaded_as_planned(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source)
    plan = make_plan(checkpoint.shape, hidden=18)
    written = prune_checkpoint(checkpoint, plan, tmp_path / "pruned")
    assert written.shape == plan.target
    assert written.params == plan.target.params
    assert written.config["intermediate_size"] == [*plan.target.block_widths]
    expected = logits(prune_model(load_model(source), plan))
    torch.testing.assert_close(logits(load_model(written.folder)), expected, rtol=0, atol=0)


def test_plain_transformers_loads_it_with_the_classes_beside_it(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source)
    written = prune_checkpoint(checkpoint, make_plan(checkpoint.shape, hidden=18), tmp_path / "pruned")
    model, info = AutoModelForCausalLM.from_pretrained(
        written.folder, trust_remote_code=True, output_loading_info=True, dtype=torch.float32
    )
    assert not any(names for kind, names in info.items() if kind != "unexpected_keys")
    if hasattr(model.config, "time_step_limit"):
        set_time_step_limit(model)
    torch.testing.assert_close(logits(model.eval()), logits(load_model(written.folder)), rtol=0, atol=0)
    assert model.config.intermediate_size == [*written.shape.block_widths]
    ids = model.generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert ids.shape == (1, IDS.shape[1] + 4)


def test_a_trained_one_is_saved_with_the_classes(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source)
    written = prune_checkpoint(checkpoint, make_plan(checkpoint.shape), tmp_path / "pruned")
    saved = save_model(load_model(written.folder).state_dict(), written, tmp_path / "saved")
    assert saved.shape == written.shape
    names = {path.name for path in written.folder.iterdir() if path.suffix == ".py"}
    assert names == {"configuration_block_widths.py", "modeling_block_widths.py"}
    assert {path.name for path in saved.folder.iterdir() if path.suffix == ".py"} == names


def test_a_plan_of_unequal_widths_is_read_back(tmp_path: Path) -> None:
    plan = make_plan(SHAPES["nemotron_h"])
    save_plan(plan, tmp_path / "plan")
    assert load_plan(tmp_path / "plan").target == plan.target


def test_a_configuration_of_unequal_widths_reads_back_as_written(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source)
    written = prune_checkpoint(checkpoint, make_plan(checkpoint.shape), tmp_path / "pruned")
    config = json.loads((written.folder / "config.json").read_text())
    assert shape_from_config(config) == written.shape
    with pytest.raises(MinitronError, match="whole number"):
        shape_from_config({**config, "intermediate_size": [*written.shape.block_widths[:-1], 8]})
    with pytest.raises(MinitronError, match="block_widths must be"):
        shape_from_config({**config, "intermediate_size": [4, 6, 8, 10]})


def test_equal_widths_are_an_ordinary_shape() -> None:
    assert make_tiny_shape(block_widths=(36, 36, 36)) == make_tiny_shape()


def test_it_is_not_cut_again(tmp_path: Path) -> None:
    target = make_plan(SHAPES["llama"]).target
    with pytest.raises(MinitronError, match="cannot be cut further"):
        target.resized(hidden_size=12)


@pytest.mark.parametrize(
    "shape",
    [make_dense_shape("qwen3", block_widths=(36, 37, 38)), make_moe_shape(hybrid_override_pattern="M-*-EM")],
    ids=["qwen3", "experts"],
)
def test_families_without_classes_are_refused(shape: HybridShape) -> None:
    from minitron.checkpoints.block_width_classes import check_block_widths

    with pytest.raises(MinitronError, match="FFN widths by block are for nemotron_h and llama without experts"):
        check_block_widths(shape)
