"""A training that is watched by validation text: it ends no worse than it starts, and the same after a kill."""

import logging
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minitron.distill.loss.chunked import distillation_loss
from minitron.distill.loss.objective import DenseTargets, Objective
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training import validation, watch
from minitron.distill.training.keeping import best_step
from minitron.distill.training.model import DistillationModel
from minitron.distill.training.rate_search import RATE_FILE
from minitron.distill.training.record import DistillRecord
from minitron.distill.training.stage import DistillSettings, TrainingRun, distill
from minitron.distill.training.validation import ForwardPasses, Validation, ValidationText, steps_between
from minitron.distributed import Ranks
from minitron.models.shape import HybridShape
from minitron.runtime.backbone import last_hidden_states, output_head
from minitron.runtime.context_parallel.part import part_of
from tests.support.models import make_tiny_model

STEPS = 8
SETTINGS: dict[str, Any] = {
    "batch_size": 2,
    "learning_rate": 3e-3,
    "warmup_steps": 2,
    "save_steps": 3,
    "validation": {"every_steps": 2},
}


def make_blocks(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(3, 271, (count, 12), dtype=np.int32)


def train(
    folder: Path, shape: HybridShape, stop_after_steps: int | None = None, **changes: Any
) -> tuple[Any, DistillRecord]:
    student, teacher = make_tiny_model(shape, seed=1), OnlineTeacher(make_tiny_model(shape))
    record = distill(
        student,
        teacher,
        make_blocks(2 * STEPS),
        DistillSettings.model_validate({**SETTINGS, **changes}),
        TrainingRun(
            state_folder=folder, seed=0, stop_after_tokens=None if stop_after_steps is None else stop_after_steps * 24
        ),
        ValidationText(sequences_NT=make_blocks(5, seed=9), teacher=teacher),
    )
    return student, record


def assert_same(student: Any, expected: Any) -> None:
    for (name, left), right in zip(student.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(left, right), name


def measured(student: Any, shape: HybridShape) -> float:
    """The KL on the validation text, from all its logits at once, in float64."""
    ids_BT = torch.from_numpy(make_blocks(5, seed=9)).long()
    teacher = make_tiny_model(shape)
    with torch.no_grad():
        log_p, log_q = (
            torch.log_softmax(last_hidden_states(one, ids_BT).double() @ output_head(one).double().T, -1)
            for one in (teacher, student.eval())
        )
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def test_what_is_measured_is_the_kl_to_the_teacher_a_token(tmp_path: Path, tiny_shape: HybridShape) -> None:
    student, record = train(tmp_path, tiny_shape)
    assert record.validation is not None
    assert [tokens for tokens, _ in record.validation.curve] == [0, 48, 96, 144, 192]
    assert record.validation.curve[0][1] == pytest.approx(
        measured(make_tiny_model(tiny_shape, seed=1), tiny_shape), rel=1e-5
    )
    assert record.validation.curve[-1][1] == pytest.approx(measured(student, tiny_shape), rel=1e-5)
    assert (record.validation.kept_tokens, record.validation.worse) == (192, False)


def test_watching_changes_no_weight_and_no_point_of_the_curve(tmp_path: Path, tiny_shape: HybridShape) -> None:
    watched, record = train(tmp_path / "watched", tiny_shape, keep="last")
    student, teacher = make_tiny_model(tiny_shape, seed=1), OnlineTeacher(make_tiny_model(tiny_shape))
    alone = distill(
        student,
        teacher,
        make_blocks(2 * STEPS),
        DistillSettings.model_validate(SETTINGS),
        TrainingRun(state_folder=tmp_path / "alone", seed=0),
    )
    assert_same(watched, student)
    assert record.curve == alone.curve
    assert alone.validation is None


@pytest.mark.parametrize("rate", [3.0, 1e4])
def test_a_rate_that_is_too_high_ends_as_the_start(
    tmp_path: Path, tiny_shape: HybridShape, caplog: pytest.LogCaptureFixture, rate: float
) -> None:
    with caplog.at_level(logging.WARNING):
        student, record = train(tmp_path, tiny_shape, learning_rate=rate, warmup_steps=0)
    assert record.validation is not None
    assert (record.validation.worse, record.validation.kept_tokens) == (True, 0)
    assert_same(student, make_tiny_model(tiny_shape, seed=1))
    said = [line for line in caplog.messages if "worse than its start" in line]
    assert len(said) == 1
    assert "the start is kept" in said[0]


def test_a_last_state_that_is_worse_is_kept_where_that_is_asked_for_and_said(
    tmp_path: Path, tiny_shape: HybridShape, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        student, record = train(tmp_path, tiny_shape, learning_rate=3.0, warmup_steps=0, keep="last")
    assert record.validation is not None
    assert record.validation.worse
    assert record.validation.kept_tokens == 192
    assert record.validation.curve[-1][1] == pytest.approx(measured(student, tiny_shape), rel=1e-4)
    assert any("worse than its start" in line and "keep: last" in line for line in caplog.messages)
    assert not list(tmp_path.glob("weights-*"))


class KilledError(Exception):
    """A kill, as far as this process is concerned."""


def killed(monkeypatch: pytest.MonkeyPatch, folder: Path, shape: HybridShape, at_call: int, **changes: Any) -> bool:
    """Trains until the forward pass with a number; whether it came so far."""
    original, calls = DistillationModel.forward, []

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == at_call:
            raise KilledError
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationModel, "forward", forward)
        try:
            train(folder, shape, **changes)
        except KilledError:
            return True
    return False


# Rates whose best state is the last one, one between, and the start.
@pytest.mark.parametrize(("rate", "save_steps"), [(3e-3, 3), (0.03, 3), (0.03, 0), (1.0, 3)])
def test_a_kill_at_any_step_ends_with_the_same_kept_weights(
    tmp_path: Path, tiny_shape: HybridShape, monkeypatch: pytest.MonkeyPatch, rate: float, save_steps: int
) -> None:
    changes = {"learning_rate": rate, "save_steps": save_steps}
    expected, whole = train(tmp_path / "whole", tiny_shape, **changes)
    folder, at_call = tmp_path / "killed", 3
    while killed(monkeypatch, folder, tiny_shape, at_call, **changes) and at_call < 9:
        at_call += 2
    student, record = train(folder, tiny_shape, **changes)
    assert_same(student, expected)
    assert record.validation is not None
    assert whole.validation is not None
    assert record.validation.curve == whole.validation.curve
    assert record.validation.kept_tokens == whole.validation.kept_tokens


def test_a_training_that_stops_and_goes_on_keeps_what_one_without_a_stop_does(
    tmp_path: Path, tiny_shape: HybridShape
) -> None:
    expected, whole = train(tmp_path / "whole", tiny_shape, learning_rate=0.03)
    for steps in (3, 5, 5, None):
        student, record = train(tmp_path / "stopped", tiny_shape, stop_after_steps=steps, learning_rate=0.03)
    assert_same(student, expected)
    assert record.validation is not None
    assert whole.validation is not None
    assert record.validation.curve == whole.validation.curve
    again, _ = train(tmp_path / "stopped", tiny_shape, learning_rate=0.03)  # finds all done
    assert_same(again, expected)


def test_a_searched_rate_trains_as_the_same_number_does(tmp_path: Path, tiny_shape: HybridShape) -> None:
    found, record = train(tmp_path / "auto", tiny_shape, learning_rate="auto")
    assert record.rate is not None
    given, _ = train(tmp_path / "given", tiny_shape, learning_rate=record.rate.rate)
    assert_same(found, given)
    assert record.validation is not None
    assert record.rate.start == record.validation.curve[0][1]
    assert len(record.rate.trials) >= 2


def test_a_search_leaves_weights_and_random_numbers_as_they_were(
    tmp_path: Path, tiny_shape: HybridShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []
    original = watch.search_rate

    def search(*args: Any, **kwargs: Any) -> Any:
        (model,) = {id(part._model): part._model for part in args if hasattr(part, "_model")}.values()
        states.append((torch.get_rng_state(), [parameter.clone() for parameter in model.parameters()]))
        found = original(*args, **kwargs)
        states.append((torch.get_rng_state(), list(model.parameters())))
        return found

    monkeypatch.setattr(watch, "search_rate", search)
    train(tmp_path, tiny_shape, learning_rate="auto", stop_after_steps=1)
    (numbers, weights), (numbers_after, _) = states
    assert torch.equal(numbers, numbers_after)
    start = make_tiny_model(tiny_shape, seed=1)
    for before, expected in zip(weights, start.parameters(), strict=True):
        assert torch.equal(before, expected)


def test_a_killed_training_does_not_search_again(
    tmp_path: Path, tiny_shape: HybridShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, whole = train(tmp_path / "whole", tiny_shape, learning_rate="auto")
    folder, original, calls = tmp_path / "killed", DistillationModel.forward, []

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.extend([1] if (folder / RATE_FILE).is_file() else [])
        if len(calls) == 9:
            raise KilledError
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(DistillationModel, "forward", forward)
        train(folder, tiny_shape, learning_rate="auto")
    monkeypatch.setattr(watch, "search_rate", None)
    student, record = train(folder, tiny_shape, learning_rate="auto")
    assert_same(student, expected)
    assert record.rate is not None
    assert whole.rate is not None
    assert replace(record.rate, seconds=0) == replace(whole.rate, seconds=0)


def test_a_rate_cannot_be_searched_for_without_validation_text(tmp_path: Path, tiny_shape: HybridShape) -> None:
    model, run = make_tiny_model(tiny_shape), TrainingRun(state_folder=tmp_path, seed=0)
    with pytest.raises(ValueError, match="learning_rate: auto needs validation text"):
        distill(model, OnlineTeacher(model), make_blocks(4), DistillSettings(batch_size=2), run)


def test_a_teacher_that_is_held_measures_what_one_that_is_asked_does(
    tiny_shape: HybridShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = make_tiny_model(tiny_shape, seed=1), OnlineTeacher(make_tiny_model(tiny_shape))
    model, text = DistillationModel(student, teacher, Objective()), make_blocks(5, seed=9)
    asked: list[int] = []
    original = OnlineTeacher.targets

    def targets(self: Any, ids_BT: torch.Tensor, index_B: torch.Tensor) -> DenseTargets:
        asked.append(len(ids_BT))
        return original(self, ids_BT, index_B)

    monkeypatch.setattr(OnlineTeacher, "targets", targets)
    losses = []
    for held_bytes, expected in ((2**30, 3), (0, 6)):
        monkeypatch.setattr(validation, "HELD_BYTES", held_bytes)
        measure = Validation(
            ValidationText(sequences_NT=text, teacher=teacher),
            model,
            Ranks("cpu"),
            ForwardPasses(
                batch_size=2,
                part=part_of(Ranks("cpu").context_group(1), text.shape[1]),
                sharded=False,
                autocast=nullcontext,
            ),
        )
        asked.clear()
        losses += [measure.loss(), measure.loss()]
        assert len(asked) == expected
    assert len(set(losses)) == 1
    ids_BT = torch.from_numpy(text).long()
    whole = distillation_loss(
        last_hidden_states(student, ids_BT).flatten(0, 1),
        output_head(student),
        original(teacher, ids_BT, torch.arange(5)),
        Objective(),
    )
    assert losses[0] == pytest.approx(float(whole.total) / ids_BT.numel(), rel=1e-6)


def test_the_best_step_is_the_first_of_the_lowest_and_never_one_that_is_not_finite() -> None:
    history = [{"step": step, "eval_loss": loss} for step, loss in ((0, 3.0), (2, 1.0), (4, math.inf), (6, 1.0))]
    assert best_step([{"step": 1, "loss": 0.1}, *history]) == 2
    assert best_step([]) == 0


def test_measurements_take_a_twentieth_of_a_training() -> None:
    for sequences, max_steps, batch_size in ((32, 384, 4), (8, 1000, 16), (64, 50, 2)):
        every = steps_between(sequences, max_steps=max_steps, batch_size=batch_size)
        assert max_steps / every <= 20
        assert (max_steps / every) * 0.25 * sequences / batch_size <= 0.05 * max_steps + 1e-9


def test_a_warm_up_that_is_cut_is_said(
    tmp_path: Path, tiny_shape: HybridShape, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        train(tmp_path, tiny_shape, warmup_steps=60)
    assert "warmup_steps is cut from 60 to 2, a quarter of the 8 steps that there are" in caplog.messages
