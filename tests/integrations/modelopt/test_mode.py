"""The mode of ModelOpt: the same cut as without it, usable in place, saved, restored and quantized."""

import copy
import json
from pathlib import Path
from typing import Any

import modelopt.torch.opt as mto
import modelopt.torch.prune as mtp
import modelopt.torch.quantization as mtq
import numpy as np
import pytest
import torch
from modelopt.torch.export import export_hf_checkpoint
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import minitron.integrations.modelopt.mode  # noqa: F401 (registers the mode)
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.samples import Samples
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.importance.calibrate import calibrate
from minitron.importance.forward_loop import score_forward_loop
from minitron.importance.selection import select_units
from minitron.models.shape import HybridShape
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.plan import PrunePlan
from minitron.runtime.stack import MemoryStack
from minitron.search.solver import NothingFitsError
from minitron.units import GIB

EXPORT = {
    "hidden_size": 14,
    "intermediate_size": 20,
    "mamba_num_heads": 6,
    "mamba_head_dim": 3,
    "num_attention_heads": 3,
    "num_hidden_layers": 7,
}
STEPS = {"hidden_size": 2, "intermediate_size": 4, "mamba_head_dim": 1}


def plain_model(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    return model


def calibration() -> torch.Tensor:
    return torch.randint(3, 271, (4, 23), generator=torch.Generator().manual_seed(3))


def loop(model: nn.Module) -> None:
    model(calibration())


def prune(model: PreTrainedModel, constraints: dict[str, Any], **config: Any) -> dict[str, Any]:
    pruned, state = mtp.prune(
        model, mode="minitron", constraints=constraints, dummy_input=None, config={"forward_loop": loop} | config
    )
    assert pruned is model
    best: dict[str, Any] = state["best"]
    return best


def logits(model: nn.Module, ids_BT: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(ids_BT).logits
    return found


def test_the_pruned_model_equals_the_checkpoint_pruned_on_disk_by_the_same_scores(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    model = plain_model(tiny_checkpoint)
    best = prune(model, {"export_config": EXPORT})
    source = open_checkpoint(tiny_checkpoint)
    teacher = plain_model(tiny_checkpoint)
    samples = Samples(token_ids=calibration().numpy().astype(np.int32))
    scores = calibrate(MemoryStack(teacher, source.shape), samples)
    sizes = {name: size for name, size in EXPORT.items() if name != "num_hidden_layers"}
    target = source.shape.resized(layers=best["layers"], **sizes)
    keep = select_units(scores, source.shape, target, tuple(best["layers"]))
    written = prune_checkpoint(source, PrunePlan(source=source.shape, target=target, keep=keep), tmp_path / "pruned")
    on_disk = plain_model(written.folder)
    assert best["params"] == written.params
    for name, tensor in on_disk.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)


def test_the_pruned_model_generates_and_survives_saving_bit_for_bit(
    tmp_path: Path, tiny_checkpoint: Path, token_ids: torch.Tensor
) -> None:
    model = plain_model(tiny_checkpoint)
    prune(model, {"export_config": EXPORT})
    assert model.config.hidden_size == 14
    assert model.generate(token_ids, max_new_tokens=3, min_new_tokens=3, do_sample=False).shape == (2, 29 + 3)
    model.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(
        logits(plain_model(tmp_path / "saved"), token_ids), logits(model, token_ids), rtol=0, atol=0
    )
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    assert open_checkpoint(tmp_path / "saved").shape.hidden_size == 14


def test_a_cut_that_keeps_everything_changes_no_logit(tiny_checkpoint: Path, token_ids: torch.Tensor) -> None:
    model = plain_model(tiny_checkpoint).train()
    before = logits(model.eval(), token_ids)
    model.train()
    prune(model, {"export_config": {}})
    assert model.training
    torch.testing.assert_close(logits(model.eval(), token_ids), before, rtol=0, atol=0)


def test_modelopts_own_spellings_mean_the_same(tiny_checkpoint: Path) -> None:
    one, other = plain_model(tiny_checkpoint), plain_model(tiny_checkpoint)
    prune(one, {"export_config": {"intermediate_size": 20, "num_hidden_layers": 6}})
    prune(other, {"export_config": {"ffn_hidden_size": 20, "num_layers": 6}})
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=0, atol=0)


def test_memory_and_parameters_both_hold(tiny_checkpoint: Path, tiny_shape: HybridShape) -> None:
    workload = Workload(context_tokens=64)
    bytes_ = memory_bytes(tiny_shape, workload).total_bytes * 8 // 10
    most = tiny_shape.params * 7 // 10
    budget = {"context_tokens": 64, "utilization": 1.0, "steps": STEPS, "max_depth_pruning": 0.3}
    model = plain_model(tiny_checkpoint)
    best = prune(model, {"memory_gib": bytes_ / GIB, "params": most}, **budget)
    assert best["params"] == sum(parameter.numel() for parameter in model.parameters()) <= most
    assert best["memory"]["total_bytes"] <= bytes_
    by_share = prune(plain_model(tiny_checkpoint), {"params": "70%"}, **budget)
    assert by_share["params"] <= most


def test_a_budget_that_nothing_fits_says_what_is_nearest_and_leaves_the_model_alone(
    tiny_checkpoint: Path, token_ids: torch.Tensor
) -> None:
    model = plain_model(tiny_checkpoint)
    before = logits(model, token_ids)
    with pytest.raises(NothingFitsError, match="the budget must hold at least one"):
        prune(model, {"memory_gib": 1e-6}, context_tokens=64)
    torch.testing.assert_close(logits(model, token_ids), before, rtol=0, atol=0)
    prune(model, {"export_config": {"hidden_size": 14}})  # and it can be pruned still
    assert [name for name, _ in mto.modelopt_state(model)["modelopt_state_dict"]] == ["minitron", "export_nas"]


@pytest.mark.parametrize(
    ("constraints", "config", "message"),
    [
        ({"export_config": {"hiden_size": 14}}, {}, "'hiden_size'; did you mean hidden_size"),
        ({"memory_gb": 1}, {}, "'memory_gb'; did you mean memory_gib"),
        ({"memory_gib": 1}, {}, "needs config"),
        ({"params": 1e4}, {"contxt_tokens": 3}, "'contxt_tokens'; did you mean context_tokens"),
        ({"params": -1}, {}, "params must be a positive number"),
        ({"export_config": {"hidden_size": 30}}, {}, "must not exceed the model's 22"),
        ({"export_config": {"mamba_num_heads": 7}}, {}, "multiple of n_groups=2"),
        ({"export_config": {"num_layers": 7, "num_hidden_layers": 7}}, {}, "once"),
        ({"export_config": {}, "params": 5}, {}, "the only constraint"),
        ({}, {}, "must hold one of"),
        ({"params": 1e4}, {"forward_loop": None}, "forward_loop"),
        ({"params": 1e4}, {"forward_loop": lambda model: None}, "it ran none"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tiny_checkpoint: Path, constraints: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    model = plain_model(tiny_checkpoint)
    with pytest.raises(ValueError, match=message):
        prune(model, constraints, **config)
    assert not hasattr(model, "_modelopt_state")


def test_padding_counts_for_nothing(tiny_model: PreTrainedModel, tiny_shape: HybridShape) -> None:
    ids_BT = calibration()
    padded_BT = torch.cat([ids_BT, torch.zeros(4, 6, dtype=torch.long)], dim=1)
    mask_BT = (torch.arange(29) < 23).long().expand(4, -1)
    plain = score_forward_loop(tiny_model, tiny_shape, lambda model: model(ids_BT))
    masked = score_forward_loop(tiny_model, tiny_shape, lambda model: model(padded_BT, attention_mask=mask_BT))
    heedless = score_forward_loop(tiny_model, tiny_shape, lambda model: model(padded_BT))
    assert plain.num_tokens == masked.num_tokens == 4 * 23
    assert plain.hidden_size is not None
    assert masked.hidden_size is not None
    assert heedless.hidden_size is not None
    np.testing.assert_allclose(masked.hidden_size, plain.hidden_size, rtol=1e-5)
    np.testing.assert_allclose(masked.depth, plain.depth, rtol=1e-5)
    assert np.abs(heedless.hidden_size / plain.hidden_size - 1).max() > 0.01


def test_scores_that_were_kept_are_taken_again_for_the_same_model_alone(tmp_path: Path, tiny_checkpoint: Path) -> None:
    first, second = plain_model(tiny_checkpoint), plain_model(tiny_checkpoint)
    prune(first, {"export_config": EXPORT}, checkpoint=str(tmp_path / "kept"))
    prune(second, {"export_config": EXPORT}, scores=tmp_path / "kept" / "scores.safetensors", forward_loop=None)
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor, rtol=0, atol=0)
    other = plain_model(tiny_checkpoint)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with pytest.raises(ValueError, match="scores must be of the model that is pruned"):
        prune(other, {"export_config": EXPORT}, scores=tmp_path / "kept" / "scores.safetensors")


def test_modelopts_state_cuts_the_original_alike_and_restores_later_weights(
    tmp_path: Path, tiny_checkpoint: Path, token_ids: torch.Tensor
) -> None:
    model = plain_model(tiny_checkpoint)
    prune(model, {"export_config": EXPORT})
    replayed = mto.restore_from_modelopt_state(plain_model(tiny_checkpoint), mto.modelopt_state(model))
    torch.testing.assert_close(logits(replayed, token_ids), logits(model, token_ids), rtol=0, atol=0)
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    mto.save(model, tmp_path / "model.pth")
    restored = mto.restore(plain_model(tiny_checkpoint), tmp_path / "model.pth")
    torch.testing.assert_close(logits(restored, token_ids), logits(model, token_ids), rtol=0, atol=0)


def test_a_pruned_model_can_be_quantized_and_exported(
    tmp_path: Path, tiny_checkpoint: Path, token_ids: torch.Tensor
) -> None:
    model = plain_model(tiny_checkpoint)
    best = prune(model, {"export_config": EXPORT})
    before = logits(model, token_ids)
    quantized = mtq.quantize(model, copy.deepcopy(mtq.INT8_DEFAULT_CFG), loop)
    after = logits(quantized, token_ids)
    change = float((after - before).norm() / before.norm())
    assert 0 < change < 0.2
    export_hf_checkpoint(quantized, export_dir=tmp_path / "int8")
    assert json.loads((tmp_path / "int8" / "config.json").read_text())["hidden_size"] == 14
    exported = open_checkpoint(tmp_path / "int8", quantized=True)
    assert (exported.weights_format, exported.params) == ("int8", best["params"])
