"""A student that runs on slices computes and learns what the extracted student does, whatever the family."""

# B sequences, T tokens, V vocabulary

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from minitron.checkpoints.names import read_place
from minitron.checkpoints.places import model_places
from minitron.distill.nested.slices import SlicedStudent
from minitron.distill.nested.students import TrainedStudent
from minitron.models.axes import tensor_shape
from minitron.models.nested import NestedStudent
from minitron.models.shape import HybridShape
from minitron.models.slicing import TensorCut, tensor_cuts
from minitron.prune.in_memory import prune_model
from minitron.prune.laws.tiny_model import InDouble
from minitron.prune.plan import PrunePlan
from tests.support.exact import exact_model
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_model, make_tiny_shape
from tests.support.strategies import plans, shapes, tokens

TIED = make_dense_shape("llama", tie_word_embeddings=1)
# Shape, a smaller one, and the blocks that it has.
CASES: dict[str, tuple[HybridShape, dict[str, int], tuple[int, ...]]] = {
    "nemotron_h": (
        make_tiny_shape(),
        {"hidden_size": 17, "intermediate_size": 21, "mamba_num_heads": 4, "mamba_head_dim": 3},
        (0, 1, 2, 4, 6, 7),
    ),
    "nemotron_h, experts": (
        make_moe_shape(),
        {
            "hidden_size": 17,
            "n_routed_experts": 12,
            "moe_intermediate_size": 7,
            "moe_shared_expert_intermediate_size": 8,
        },
        (0, 1, 2, 4),
    ),
    "llama, tied": (TIED, {"hidden_size": 12, "intermediate_size": 20, "num_attention_heads": 3}, (0, 2)),
    "qwen3": (
        make_dense_shape("qwen3"),
        {"hidden_size": 13, "num_key_value_heads": 2, "num_attention_heads": 4},
        (1, 2),
    ),
}


def nested(shape: HybridShape, sizes: dict[str, int], layers: tuple[int, ...]) -> NestedStudent:
    return NestedStudent(name="small", shape=shape.resized(layers=layers, **sizes), layers=layers)


def with_correction(student: NestedStudent, *, dtype: torch.dtype, seed: int = 0) -> TrainedStudent:
    """Half of a student's tensors, every other one, have a correction."""
    generator = torch.Generator().manual_seed(seed)
    shapes_of = {name: tensor_shape(spec, student.shape.sizes) for name, spec in student.shape.tensors().items()}
    correction = {
        name: 0.05 * torch.randn(size, generator=generator, dtype=dtype) for name, size in [*shapes_of.items()][::2]
    }
    return TrainedStudent(student=student, correction=correction)


def shared_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
    return found


def extracted(model: PreTrainedModel, shape: HybridShape, trained: TrainedStudent) -> PreTrainedModel:
    """The student cut as any checkpoint is, with its correction added in place."""
    student = trained.student
    alone = prune_model(model, PrunePlan(source=shape, target=student.shape, keep=student.keep(shape)))
    state, places = alone.state_dict(), model_places(student.shape)
    for name, correction in trained.correction.items():
        read_place(state, places[name]).add_(correction)
    return alone


def logits_of_slices(model: PreTrainedModel, trained: TrainedStudent, ids_BT: torch.Tensor) -> torch.Tensor:
    sliced = SlicedStudent(model, trained)
    with InDouble() if model.dtype == torch.float64 else nullcontext():
        hidden_BTD, head_VD = sliced.last_hidden(shared_of(model), ids_BT)
        return hidden_BTD @ head_VD.T


def weighted(logits_BTV: torch.Tensor) -> torch.Tensor:
    """A number in which every logit counts otherwise, in fp64."""
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(logits_BTV.shape, generator=generator, dtype=torch.float64)
    return (torch.log_softmax(logits_BTV, dim=-1) * weights).sum()


def scattered(cut: TensorCut, gradient: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The gradient of a cut tensor where it belongs in the whole one, entry by entry of a stack."""
    whole = np.zeros(cut.before)
    kept = [np.arange(size) if one is None else one for size, one in zip(cut.before, cut.kept, strict=True)]
    if all(one.ndim == 1 for one in kept):
        whole[np.ix_(*kept)] = gradient * cut.scale
    else:
        for after, entry in enumerate(kept[0]):
            whole[(entry, *np.ix_(*(one if one.ndim == 1 else one[after] for one in kept[1:])))] = gradient[after]
    return whole


def assert_gradient_is_the_extracted_students(shape: HybridShape, student: NestedStudent, seed: int) -> None:
    trained = with_correction(student, dtype=torch.float64, seed=seed)
    model = exact_model(shape, seed=seed)
    ids_BT = tokens(shape, seed, batch=1)
    weighted(logits_of_slices(model, trained, ids_BT)).backward()
    alone = extracted(model, shape, trained).train()
    with InDouble():
        weighted(alone(ids_BT, use_cache=False).logits).backward()
    own = {name: tensor.grad for name, tensor in alone.state_dict(keep_vars=True).items() if tensor.grad is not None}
    shared = {name: tensor.grad for name, tensor in shared_of(model).items() if tensor.grad is not None}
    sources, places = model_places(shape), model_places(student.shape)
    touched = set()
    for cut in tensor_cuts(shape, student.keep(shape)):
        if places[cut.name].name not in own:
            continue
        expected = scattered(cut, read_place(own, places[cut.name]).numpy())
        found = read_place(shared, sources[cut.source])
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9, err_msg=cut.source)
        touched.add(sources[cut.source].name)
    assert any(bool(gradient.any()) for gradient in shared.values())
    for name, gradient in shared.items():
        assert name in touched or name == "lm_head.weight" or not gradient.any(), name


@pytest.mark.parametrize("case", CASES)
def test_gradient_of_the_shared_weights_is_that_of_the_extracted_student(case: str) -> None:
    shape, sizes, layers = CASES[case]
    assert_gradient_is_the_extracted_students(shape, nested(shape, sizes, layers), seed=3)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_gradient_of_any_familys_shared_weights_is_that_of_the_extracted_student(data: Any, seed: int) -> None:
    shape = data.draw(shapes())
    plan = data.draw(plans(shape))
    student = NestedStudent(name="small", shape=plan.target, layers=plan.keep.layers)
    assert_gradient_is_the_extracted_students(shape, student, seed)


@pytest.mark.parametrize("case", CASES)
def test_gradient_is_the_slope_of_the_extracted_students_loss(case: str) -> None:
    shape, sizes, layers = CASES[case]
    trained = with_correction(nested(shape, sizes, layers), dtype=torch.float64)
    ids_BT, model = tokens(shape, 7, batch=1), exact_model(shape, seed=4)
    weighted(logits_of_slices(model, trained, ids_BT)).backward()
    generator = torch.Generator().manual_seed(9)
    step, slope, losses = 1e-6, 0.0, []
    directions = {
        name: torch.randn(one.shape, generator=generator, dtype=one.dtype) for name, one in model.named_parameters()
    }
    for name, parameter in model.named_parameters():
        slope += 0.0 if parameter.grad is None else float((parameter.grad * directions[name]).sum())
    for sign in (1, -2):
        with torch.no_grad(), InDouble():
            for name, parameter in model.named_parameters():
                parameter += sign * step * directions[name]
            logits = extracted(model, shape, trained)(ids_BT, use_cache=False).logits
            losses.append(float(weighted(logits)))
    assert slope == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_extracted_student_bit_for_bit(case: str) -> None:
    shape, sizes, layers = CASES[case]
    trained = with_correction(nested(shape, sizes, layers), dtype=torch.float32)
    ids_BT, model = tokens(shape, 1), make_tiny_model(shape)
    with torch.no_grad():
        found = logits_of_slices(model, trained, ids_BT)
        expected = extracted(model, shape, trained)(ids_BT, use_cache=False).logits
    assert torch.equal(found, expected)


def test_a_student_holds_no_weights_of_its_own() -> None:
    shape, sizes, layers = CASES["nemotron_h"]
    sliced = SlicedStudent(make_tiny_model(shape), TrainedStudent(student=nested(shape, sizes, layers)))
    assert all(parameter.is_meta for parameter in sliced._template.parameters())
