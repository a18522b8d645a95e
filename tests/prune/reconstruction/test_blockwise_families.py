"""Repair in every family: blocks with two branches, blocks of experts, and heads that are the embeddings, too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.importance.scores import random_scores
from minitron.importance.selection import select_units
from minitron.models.shape import HybridShape
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.in_memory import prune_model
from minitron.prune.plan import PrunePlan
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.blockwise import repair
from minitron.prune.reconstruction.settings import RepairSettings
from minitron.prune.reconstruction.write import write_repaired
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack, MemoryStack
from tests.support.models import make_dense_shape, make_moe_shape, write_tiny_checkpoint
from tests.support.repairs import lstsq_by_rows, make_samples, mean_kl

SHAPES = {
    "experts": (make_moe_shape(), {"n_routed_experts": 12, "moe_shared_expert_intermediate_size": 9}),
    "latent experts": (make_moe_shape(moe_latent_size=9), {"moe_intermediate_size": 8, "mamba_num_heads": 6}),
    "llama": (make_dense_shape("llama"), {"intermediate_size": 30, "num_attention_heads": 3}),
    "qwen3 tied": (make_dense_shape("qwen3", tie_word_embeddings=1), {"intermediate_size": 30}),
}


def plan_of(shape: HybridShape, sizes: dict[str, int]) -> PrunePlan:
    layers = tuple(range(shape.num_hidden_layers))
    target = shape.resized(hidden_size=18, **sizes)
    return PrunePlan(
        source=shape, target=target, keep=select_units(random_scores(shape, seed=2), shape, target, layers)
    )


@pytest.mark.parametrize("name", SHAPES)
def test_a_repaired_model_is_nearer_to_its_teacher(tmp_path: Path, name: str) -> None:
    shape, sizes = SHAPES[name]
    teacher = load_model(write_tiny_checkpoint(tmp_path / "teacher", shape=shape))
    plan, samples = plan_of(shape, sizes), make_samples(count=40)
    student = prune_model(teacher, plan)
    before = mean_kl(teacher, student, samples)
    pair = Alignment(teacher=MemoryStack(teacher, shape), student=MemoryStack(student, plan.target), plan=plan)
    weights = dict(repair(pair, samples))
    assert ("lm_head.weight" in weights) == (shape.tie_word_embeddings == 0)
    if "lm_head.weight" in weights:
        head: Any = student.get_output_embeddings()
        with torch.no_grad():
            head.weight.copy_(weights["lm_head.weight"])
    assert mean_kl(teacher, student, samples) < before


@pytest.mark.parametrize("name", SHAPES)
def test_one_block_at_a_time_from_files_gives_the_same_weights(tmp_path: Path, name: str) -> None:
    shape, sizes = SHAPES[name]
    source = open_checkpoint(write_tiny_checkpoint(tmp_path / "teacher", shape=shape))
    plan, samples = plan_of(shape, sizes), make_samples(padded=True)
    pruned = prune_checkpoint(source, plan, tmp_path / "pruned")
    whole = Alignment(
        teacher=MemoryStack(load_model(source.folder), shape),
        student=MemoryStack(load_model(pruned.folder), plan.target),
        plan=plan,
    )
    expected = {weight_name: weight.clone() for weight_name, weight in repair(whole, samples)}
    layerwise = Alignment(teacher=LayerwiseStack(source), student=LayerwiseStack(pruned), plan=plan)
    found = repair(layerwise, samples, state_folder=tmp_path / "state")
    assert write_repaired(pruned, found) == len(expected)
    state = load_model(pruned.folder).state_dict()
    for weight_name, weight in expected.items():
        assert torch.equal(state[shape.family.name_in_memory(weight_name)], weight)


def test_each_branch_of_a_layer_is_fitted_to_the_stream_right_behind_it(tmp_path: Path) -> None:
    shape, sizes = SHAPES["llama"]
    teacher: Any = load_model(write_tiny_checkpoint(tmp_path / "teacher", shape=shape))
    plan, samples = plan_of(shape, sizes), make_samples()
    student: Any = prune_model(teacher, plan)
    sliced = {name: value.double().numpy().copy() for name, value in student.state_dict().items()}
    pair = Alignment(teacher=MemoryStack(teacher, shape), student=MemoryStack(student, plan.target), plan=plan)
    settings = RepairSettings(projections="outputs", ridge=0.03)
    weights = dict(repair(pair, samples, settings))
    heard: dict[str, Any] = {}

    def hear(model: Any, name: str, which: str) -> None:
        module = model.base_model.layers[0].get_submodule(name)
        module.register_forward_pre_hook(
            lambda _, x: heard.__setitem__(which, x[0].detach().double().flatten(0, 1).numpy())
        )

    hear(teacher, "post_attention_layernorm", "wanted")
    hear(student, "self_attn.o_proj", "attention")
    hear(student, "input_layernorm", "entering")
    hear(student, "mlp.down_proj", "neurons")
    hear(student, "post_attention_layernorm", "between")
    ids = samples.ids(torch.device("cpu"))
    with torch.no_grad():
        after = teacher.base_model(ids, output_hidden_states=True, use_cache=False).hidden_states[1]
        student(ids, use_cache=False)
    kept = plan.keep.indices["hidden_size", None]
    cases = {
        "self_attn.o_proj.weight": (heard["attention"], heard["wanted"][:, kept] - heard["entering"]),
        "mlp.down_proj.weight": (
            heard["neurons"],
            after.double().flatten(0, 1).numpy()[:, kept] - heard["between"],
        ),
    }
    for name, (inputs, target) in cases.items():
        expected = lstsq_by_rows(sliced[f"model.layers.0.{name}"], inputs, target, 0.03)
        np.testing.assert_allclose(weights[f"model.layers.0.{name}"].numpy(), expected, rtol=2e-3, atol=2e-4)
