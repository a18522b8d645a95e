"""Products in 8-bit floats: where they are refused, which layers have them, and one step of training beside bf16.

torchao is not among the tests' requirements: what takes it is skipped without it, and run by `make test-kernels`.
"""

import importlib.util
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from minitron.distill.loss.objective import Objective
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training import stage
from minitron.distill.training.model import DistillationModel
from minitron.distill.training.stage import DistillSettings, TrainingRun, distill
from minitron.errors import MinitronError
from minitron.models.shape import HybridShape
from minitron.runtime.float8 import float8_linears, multiply_as_before, multiply_in_float8, require_float8
from tests.runtime.float8_program import distill_emulated
from tests.support.models import make_moe_shape, make_tiny_model, make_tiny_shape
from tests.support.processes import run_ranks

# All sizes of blocks are multiples of 16 and differ; Mamba's in_proj has 2 * 160 + 2 * 2 * 28 + 16 = 448 rows.
SUITED: dict[str, int | str] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "mamba_num_heads": 16,
    "mamba_head_dim": 10,
    "ssm_state_size": 28,
}


@pytest.fixture
def torchao() -> None:
    pytest.importorskip("torchao")


def suited(**changes: int | str) -> HybridShape:
    return make_tiny_shape(**(SUITED | changes))


def names(shape: HybridShape) -> set[str]:
    """Layers, without the number of their block."""
    return {name.partition(".mixer.")[2] for name in float8_linears(make_tiny_model(shape))}


def test_it_takes_a_device_with_such_products(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        MinitronError, match="needs a CUDA device of capability 8.9 or above, got cpu; use precision bf16"
    ):
        require_float8("cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(MinitronError, match=r"got one of 8\.6"):
        require_float8("cuda:0")


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (12, 0)])
def test_it_takes_torchao(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    require_float8("cuda")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MinitronError, match=r"pip install 'minitron\[lowmem\]'"):
        require_float8("cuda")


def test_all_linear_layers_of_blocks_whose_sizes_suit_are_taken() -> None:
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert names(suited()) == {"in_proj", "out_proj", "up_proj", "down_proj", *attention}
    model = make_tiny_model(suited())
    found = float8_linears(model)
    pattern = suited().hybrid_override_pattern
    assert len(found) == 2 * pattern.count("M") + 2 * pattern.count("-") + 4 * pattern.count("*")
    assert not {id(model.lm_head), id(model.get_input_embeddings())} & set(map(id, found.values()))


@pytest.mark.parametrize(
    ("changes", "left_out"),
    [
        ({"intermediate_size": 56}, {"up_proj", "down_proj"}),
        ({"head_dim": 10}, {"v_proj", "k_proj"}),  # 40 rows; the 80 of the queries suit
        ({"ssm_state_size": 7}, {"in_proj"}),
        ({"hidden_size": 40}, {"in_proj", "out_proj", "up_proj", "down_proj", "q_proj", "k_proj", "v_proj", "o_proj"}),
    ],
)
def test_a_layer_one_of_whose_sizes_is_no_multiple_of_16_is_not(
    changes: dict[str, int | str], left_out: set[str]
) -> None:
    assert names(suited(**changes)) == names(suited()) - left_out


def test_routers_and_stacked_experts_are_not_and_shared_experts_are() -> None:
    shape = make_moe_shape(
        **SUITED, n_routed_experts=48, moe_intermediate_size=64, moe_shared_expert_intermediate_size=80
    )
    found = names(shape)
    assert {"shared_experts.up_proj", "shared_experts.down_proj"} <= found
    assert not [name for name in found if name.startswith(("gate", "experts"))]


def test_a_router_that_is_a_linear_layer_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny_model(make_moe_shape(**SUITED, n_routed_experts=48))
    block = model.base_model.layers[1]
    block.mixer.gate = nn.Linear(32, 48, bias=False)
    assert not [name for name in float8_linears(model) if "gate" in name]


@pytest.mark.usefixtures("torchao")
def test_a_model_without_such_a_layer_is_refused() -> None:
    with pytest.raises(MinitronError, match="no block of this model has one; use precision bf16"):
        multiply_in_float8(make_tiny_model(suited(hidden_size=40)))


@pytest.mark.usefixtures("torchao")
def test_just_those_layers_are_replaced_with_the_same_weights_and_put_back(caplog: pytest.LogCaptureFixture) -> None:
    from torchao.float8.float8_linear import Float8Linear

    model = make_tiny_model(suited(intermediate_size=56))
    before, expected = dict(model.named_parameters()), set(float8_linears(model))
    with caplog.at_level(logging.INFO):
        multiply_in_float8(model)
    replaced = {
        f"{number}.{name}"
        for number, block in enumerate(model.base_model.layers)
        for name, layer in block.named_modules()
        if isinstance(layer, Float8Linear)
    }
    assert replaced == expected
    assert "products of 14 of 20 linear layers of blocks; sizes that are no multiples of 16: down_proj, up_proj" in (
        caplog.text
    )
    for _ in range(2):
        after = dict(model.named_parameters())
        assert list(after) == list(before)
        assert all(after[name] is parameter for name, parameter in before.items())
        multiply_as_before(model)
    assert not [layer for layer in model.modules() if isinstance(layer, Float8Linear)]


def step(student: Any, teacher: Any, token_ids: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a batch."""
    model = DistillationModel(student.train(), OnlineTeacher(teacher), Objective())
    losses = model(token_ids, token_ids.roll(-1, 1), torch.arange(len(token_ids)))
    losses[0].backward()
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return float(losses[0].detach()), gradients  # type: ignore[return-value]


def apart(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    """Distance of two gradients over the length of the second, all parameters together."""
    squares = [((found[name] - exact[name]).pow(2).sum(), exact[name].pow(2).sum()) for name in exact]
    return float(sum(error for error, _ in squares) / sum(size for _, size in squares)) ** 0.5


@pytest.mark.usefixtures("torchao")
def test_a_step_in_emulation_is_as_near_to_fp32_as_eight_bits_are() -> None:
    token_ids = torch.randint(3, 271, (2, 32), generator=torch.Generator().manual_seed(7))
    teacher = make_tiny_model(suited(), seed=1)
    exact_loss, exact = step(make_tiny_model(suited()), teacher, token_ids)
    with torch.autocast("cpu", torch.bfloat16):
        narrow_loss, narrow = step(make_tiny_model(suited()), teacher, token_ids)
    student = make_tiny_model(suited())
    multiply_in_float8(student, emulate=True)
    loss, gradients = step(student, teacher, token_ids)
    # bf16 has 8 bits of fraction, e4m3 4 and e5m2, of gradients, 3: 16 to 32 times the rounding.
    assert loss == pytest.approx(exact_loss, rel=0.05)
    assert narrow_loss == pytest.approx(exact_loss, rel=0.01)
    assert apart(narrow, exact) < apart(gradients, exact) < 0.35
    cosine = (
        sum((gradients[name] * exact[name]).sum() for name in exact)
        / (sum(one.pow(2).sum() for one in gradients.values()) * sum(one.pow(2).sum() for one in exact.values())).sqrt()
    )
    assert float(cosine) > 0.95


@pytest.fixture
def emulated(torchao: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "require_float8", lambda device: None)
    monkeypatch.setattr(stage, "multiply_in_float8", partial(multiply_in_float8, emulate=True))


@pytest.mark.usefixtures("emulated")
def test_a_distillation_in_emulation_learns_as_in_bf16_and_leaves_plain_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchao.float8.float8_linear import Float8Linear

    used, forward = [], Float8Linear.forward

    def counted(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        used.append(layer)
        return forward(layer, x)

    monkeypatch.setattr(Float8Linear, "forward", counted)
    curves = {}
    for precision in ("bf16", "fp8"):
        student, teacher = make_tiny_model(suited(), seed=1), OnlineTeacher(make_tiny_model(suited()))
        rows = np.random.default_rng(0).integers(3, 271, (40, 16), dtype=np.int32)
        settings = DistillSettings(batch_size=2, learning_rate=1e-2, warmup_steps=2, save_steps=0, precision=precision)
        record = distill(student, teacher, rows, settings, run=TrainingRun(state_folder=tmp_path / precision, seed=0))
        curves[precision] = record.curve
        assert bool(used) == (precision == "fp8")
        assert type(student.base_model.layers[0].mixer.in_proj) is nn.Linear
    assert curves["fp8"][-1][1] < 0.7 * curves["fp8"][0][1]
    assert curves["fp8"][-1][1] == pytest.approx(curves["bf16"][-1][1], rel=0.1)


def test_a_distillation_on_a_cpu_is_refused_before_its_layers_are_touched(tmp_path: Path) -> None:
    student, teacher = make_tiny_model(suited(), seed=1), OnlineTeacher(make_tiny_model(suited()))
    rows = np.random.default_rng(0).integers(3, 271, (4, 16), dtype=np.int32)
    settings = DistillSettings(batch_size=2, learning_rate=1e-2, save_steps=0, precision="fp8")
    with pytest.raises(MinitronError, match="got cpu; use precision bf16"):
        distill(student, teacher, rows, settings, run=TrainingRun(state_folder=tmp_path, seed=0))
    assert type(student.base_model.layers[0].mixer.in_proj) is nn.Linear


@pytest.mark.processes
@pytest.mark.usefixtures("torchao")
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_two_processes_learn_as_one_does_and_hand_whole_weights_over(tmp_path: Path, sharding: str) -> None:
    found = {}
    for name, world_size, way in (("one", 1, "ddp"), ("two", 2, sharding)):
        (tmp_path / name).mkdir()
        assert run_ranks(
            distill_emulated, suited(), tmp_path / name, way, world_size=world_size, log=tmp_path / name
        ) == ([0] * world_size)
        found[name] = torch.load(tmp_path / name / "trained.pt", weights_only=True)
    one, two, start = found["one"]["state"], found["two"]["state"], make_tiny_model(suited(), seed=1).state_dict()
    assert {name: tensor.shape for name, tensor in two.items()} == {name: tensor.shape for name, tensor in one.items()}
    assert found["two"]["curve"][-1][1] == pytest.approx(found["one"]["curve"][-1][1], rel=0.1)
    # Each process scales its own sequences, so that they round differently.
    moved = {name: one[name] - start[name] for name in one}
    assert apart({name: two[name] - start[name] for name in one}, moved) < 0.5
