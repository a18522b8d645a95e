"""A batch of several students' sequences has the sum of their losses, and only their gradients."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minitron.distill.loss.objective import Objective
from minitron.distill.nested.model import NestedDistillationModel
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training.model import DistillationModel
from minitron.distill.training.stage import DistillSettings, TrainingRun, distill
from tests.distill.nested.ranks_program import SHAPE, nested_students
from tests.distill.nested.test_slices import extracted
from tests.support.models import make_tiny_model


def batch(*students: int) -> dict[str, torch.Tensor]:
    ids_BT = torch.from_numpy(np.random.default_rng(1).integers(3, 271, (len(students), 12)))
    labels_BT = ids_BT.roll(-1, dims=1)
    labels_BT[0, 5:] = -100
    index_B = torch.arange(len(students))
    return {"input_ids": ids_BT, "labels": labels_BT, "index": index_B, "student": torch.tensor(students)}


def rows(found: dict[str, torch.Tensor], *numbers: int) -> dict[str, torch.Tensor]:
    return {name: tensor[list(numbers)] for name, tensor in found.items() if name != "student"}


def nested_model(student: Any) -> NestedDistillationModel:
    teacher = OnlineTeacher(make_tiny_model(SHAPE))
    return NestedDistillationModel(student, teacher, Objective(cross_entropy=0.3), nested=nested_students())


def test_each_sequence_has_the_weighted_loss_of_its_student() -> None:
    student, found = make_tiny_model(SHAPE, seed=1), batch(1, 0, 2, 1)
    losses = nested_model(student)(**found)
    expected = torch.zeros(4)
    for number, rows_of_it in ((0, (1,)), (1, (0, 3)), (2, (2,))):
        alone = student
        if number:
            alone = extracted(student, SHAPE, nested_students()[number - 1])
        teacher = OnlineTeacher(make_tiny_model(SHAPE))
        module = DistillationModel(alone, teacher, Objective(cross_entropy=0.3))
        weights = torch.tensor([(1.0, 0.7, 1.0)[number], 1, 1, 1])
        expected += weights * module(**rows(found, *rows_of_it)).detach()
    torch.testing.assert_close(losses.detach(), expected, rtol=1e-5, atol=1e-5)


def test_without_a_turn_every_student_is_run_on_everything_for_its_share() -> None:
    model = nested_model(make_tiny_model(SHAPE, seed=1))
    found = batch(0, 0)
    everything = {name: tensor for name, tensor in found.items() if name != "student"}
    shares = (1, *(one.student.share for one in nested_students()))
    with torch.no_grad():
        expected = sum(
            share / sum(shares) * model(**everything, student=torch.full((2,), number))
            for number, share in enumerate(shares)
        )
        torch.testing.assert_close(model(**everything), expected, rtol=1e-5, atol=1e-5)


def test_a_batch_of_the_largest_student_alone_is_plain_distillation_bit_for_bit() -> None:
    found = batch(0, 0, 0)
    gradients = []
    for kind in ("nested", "plain"):
        student = make_tiny_model(SHAPE, seed=1)
        if kind == "nested":
            nested_model(student)(**found)[0].backward()
        else:
            teacher = OnlineTeacher(make_tiny_model(SHAPE))
            DistillationModel(student, teacher, Objective(cross_entropy=0.3))(**rows(found, 0, 1, 2))[0].backward()
        gradients.append({name: parameter.grad for name, parameter in student.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_blocks_that_no_student_of_a_batch_has_get_no_gradient() -> None:
    student = make_tiny_model(SHAPE, seed=1)
    nested_model(student)(**batch(2, 2))[0].backward()
    for name, parameter in student.named_parameters():
        gone = any(f".layers.{layer}." in name for layer in (3, 5, 6))
        assert (parameter.grad is None) == gone, name


def test_only_the_largest_students_weights_are_trained_and_saved() -> None:
    student = make_tiny_model(SHAPE, seed=1)
    module = nested_model(student)
    assert {id(parameter) for parameter in module.parameters()} == {id(one) for one in student.parameters()}
    assert {name.removeprefix("student.") for name in module.state_dict()} == set(student.state_dict())


@pytest.mark.parametrize("seed", [0, 1])
def test_every_student_comes_closer_to_the_teacher(tmp_path: Path, seed: int) -> None:
    student, teacher = make_tiny_model(SHAPE, seed=1), make_tiny_model(SHAPE)
    text_NT = np.random.default_rng(seed).integers(3, 271, (120, 12), dtype=np.int32)
    module, before = nested_model(student), []
    found = {number: batch(number, number) for number in range(3)}
    with torch.no_grad():
        before = [float(module(**found[number])[1]) for number in found]
    settings = DistillSettings(batch_size=3, learning_rate=1e-2, warmup_steps=2, save_steps=0, nested=nested_students())
    distill(student, OnlineTeacher(teacher), text_NT, settings, run=TrainingRun(state_folder=tmp_path, seed=seed))
    with torch.no_grad():
        after = [float(module(**found[number])[1]) for number in found]
    assert all(one < 0.8 * other for one, other in zip(after, before, strict=True)), (before, after)


def test_without_turns_every_student_counts_by_its_share() -> None:
    found = batch(0, 0)
    module = nested_model(make_tiny_model(SHAPE, seed=1))
    with torch.no_grad():
        alone = [module(**{**found, "student": torch.full((2,), number)}) for number in range(3)]
        everyone = module(**{name: tensor for name, tensor in found.items() if name != "student"})
    torch.testing.assert_close(everyone, (alone[0] + alone[1] + 2 * alone[2]) / 4)
