from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from minitron.distill.dataset import SequenceDataset
from minitron.distill.loss.hidden_states import HIDDEN_LOSSES
from minitron.distill.loss.objective import Objective
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training.model import DistillationModel, HiddenMatch
from minitron.distill.training.stage import DistillSettings, TrainingRun, distill
from minitron.distill.training.states import MARKER_FILE, last_whole_state
from minitron.distill.training.trainer import DistillationTrainer, DivergedError
from minitron.models.shape import HybridShape
from tests.support.models import make_dense_shape, make_tiny_model

SETTINGS = DistillSettings(batch_size=2, learning_rate=3e-3, warmup_steps=2, save_steps=0)


def make_blocks(count: int) -> Any:
    return np.random.default_rng(0).integers(3, 271, (count, 12), dtype=np.int32)


def test_distillation_brings_the_student_closer(tmp_path: Path, tiny_shape: HybridShape) -> None:
    student, teacher = make_tiny_model(tiny_shape, seed=1), make_tiny_model(tiny_shape, seed=0)
    before = [parameter.clone() for parameter in teacher.parameters()]
    record = distill(
        student,
        OnlineTeacher(teacher),
        make_blocks(60),
        SETTINGS.model_copy(update={"learning_rate": 1e-2}),
        run=TrainingRun(state_folder=tmp_path, seed=0),
    )
    assert record.tokens == 60 * 12
    assert record.curve[-1][1] < 0.7 * record.curve[0][1]
    for parameter, old in zip(teacher.parameters(), before, strict=True):
        torch.testing.assert_close(parameter, old, rtol=0, atol=0)


def test_one_large_batch_and_accumulated_small_ones_agree_under_uneven_masks(
    tmp_path: Path, tiny_shape: HybridShape
) -> None:
    results = []
    for batch_size, accumulation in ((4, 1), (1, 4), (2, 2)):
        student, teacher = make_tiny_model(tiny_shape, seed=1), make_tiny_model(tiny_shape, seed=0)
        samples = []
        for length, row in zip((12, 3, 7, 1), make_blocks(4), strict=True):
            ids_T = torch.from_numpy(row.astype(np.int64))
            labels_T = ids_T.clone()
            labels_T[length:] = -100
            samples.append({"input_ids": ids_T, "labels": labels_T, "index": torch.tensor(len(samples))})
        trainer = DistillationTrainer(
            model=DistillationModel(student, OnlineTeacher(teacher), Objective()),
            args=TrainingArguments(
                output_dir=str(tmp_path),
                max_steps=1,
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=accumulation,
                logging_steps=1,
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
                remove_unused_columns=False,
                label_names=["labels"],
                save_strategy="no",
                max_grad_norm=1e9,
            ),
            train_dataset=samples,
        )
        trainer.train()
        results.append((trainer.state.log_history[0]["loss"], trainer.state.log_history[0]["grad_norm"]))
    for loss, grad_norm in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        assert grad_norm == pytest.approx(results[0][1], rel=1e-5)


def test_an_interrupted_distillation_goes_on_to_the_same_weights(
    tmp_path: Path, tiny_shape: HybridShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DistillSettings(batch_size=2, learning_rate=3e-3, warmup_steps=2, save_steps=3)
    whole = make_tiny_model(tiny_shape, seed=1)
    distill(
        whole,
        OnlineTeacher(make_tiny_model(tiny_shape)),
        make_blocks(20),
        settings,
        run=TrainingRun(state_folder=tmp_path / "a", seed=0),
    )

    original, calls = DistillationModel.forward, []

    def fails_at_step_8(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 8:
            raise RuntimeError("killed")
        return original(self, *args, **kwargs)

    resumed = make_tiny_model(tiny_shape, seed=1)
    monkeypatch.setattr(DistillationModel, "forward", fails_at_step_8)
    with pytest.raises(RuntimeError, match="killed"):
        distill(
            resumed,
            OnlineTeacher(make_tiny_model(tiny_shape)),
            make_blocks(20),
            settings,
            run=TrainingRun(state_folder=tmp_path / "b", seed=0),
        )
    monkeypatch.undo()
    resumed = make_tiny_model(tiny_shape, seed=1)
    record = distill(
        resumed,
        OnlineTeacher(make_tiny_model(tiny_shape)),
        make_blocks(20),
        settings,
        run=TrainingRun(state_folder=tmp_path / "b", seed=0),
    )
    assert record.tokens == 20 * 12
    for left, right in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_fewer_blocks_than_a_batch_are_refused(tmp_path: Path, tiny_shape: HybridShape) -> None:
    model = make_tiny_model(tiny_shape)
    with pytest.raises(ValueError, match="at least one batch of 2 sequences, got 1"):
        distill(model, OnlineTeacher(model), make_blocks(1), SETTINGS, run=TrainingRun(state_folder=tmp_path, seed=0))


def test_a_diverged_loss_is_an_error_and_not_a_student(tmp_path: Path, tiny_shape: HybridShape) -> None:
    student = make_tiny_model(tiny_shape, seed=1)
    with torch.no_grad():
        next(student.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="the distillation loss must stay finite, it was nan at step 1"):
        distill(
            student,
            OnlineTeacher(make_tiny_model(tiny_shape)),
            make_blocks(8),
            SETTINGS,
            run=TrainingRun(state_folder=tmp_path, seed=0),
        )


@pytest.mark.parametrize("save_steps", [0, 3])
def test_a_stage_that_is_stopped_and_goes_on_ends_as_one_that_never_stopped(
    tmp_path: Path, tiny_shape: HybridShape, save_steps: int
) -> None:
    settings = SETTINGS.model_copy(update={"save_steps": save_steps})
    whole = make_tiny_model(tiny_shape, seed=1)
    teacher, sequences_NT = OnlineTeacher(make_tiny_model(tiny_shape)), make_blocks(20)
    straight = distill(whole, teacher, sequences_NT, settings, run=TrainingRun(state_folder=tmp_path / "a", seed=0))
    for tokens in (72, 168, 168, 240):  # 3, 7, 7 (already done) and 10 steps of 2 x 12 tokens
        stopped = make_tiny_model(tiny_shape, seed=1)
        record = distill(
            stopped,
            teacher,
            sequences_NT,
            settings,
            run=TrainingRun(state_folder=tmp_path / "b", seed=0, stop_after_tokens=tokens),
        )
        assert record.tokens == tokens
        assert record.curve == tuple(point for point in straight.curve if point[0] <= tokens)
    for parameter, expected in zip(stopped.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=0)


def test_a_loss_that_is_no_number_has_its_own_error(tmp_path: Path, tiny_shape: HybridShape) -> None:
    student, teacher = make_tiny_model(tiny_shape, seed=1), make_tiny_model(tiny_shape)
    with torch.no_grad():
        next(iter(student.parameters())).fill_(torch.nan)
    with pytest.raises(DivergedError, match="must stay finite"):
        distill(
            student, OnlineTeacher(teacher), make_blocks(4), SETTINGS, run=TrainingRun(state_folder=tmp_path, seed=0)
        )


def test_a_tied_student_stays_tied_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    shape = make_dense_shape("qwen3", tie_word_embeddings=1)
    teacher, sequences_NT = (
        OnlineTeacher(make_tiny_model(shape, seed=0)),
        np.random.default_rng(0).integers(3, 271, (12, 8)),
    )
    settings = DistillSettings(batch_size=2, learning_rate=0.01, warmup_steps=0, save_steps=2)
    students = []
    for name, stops in (("whole", [None]), ("stopped", [48, None])):
        for stop in stops:
            student = make_tiny_model(shape, seed=1)
            distill(
                student,
                teacher,
                sequences_NT.astype(np.int32),
                settings,
                run=TrainingRun(state_folder=tmp_path / name, seed=0, stop_after_tokens=stop),
            )
        head: Any = student.get_output_embeddings()
        assert head.weight is student.get_input_embeddings().weight
        students.append(student)
    for one, other in zip(students[0].parameters(), students[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def trained(tmp_path: Path, tiny_shape: HybridShape, *, blocks: int = 12, **changes: Any) -> tuple[Any, Any]:
    student = make_tiny_model(tiny_shape, seed=1)
    record = distill(
        student,
        OnlineTeacher(make_tiny_model(tiny_shape)),
        make_blocks(blocks),
        SETTINGS.model_copy(update=dict(**changes)),
        run=TrainingRun(state_folder=tmp_path, seed=0),
    )
    return student, record


def test_recomputed_blocks_and_small_chunks_give_the_same_student(tmp_path: Path, tiny_shape: HybridShape) -> None:
    plain, _ = trained(tmp_path, tiny_shape)
    recomputed, _ = trained(tmp_path, tiny_shape, gradient_checkpointing=True, chunk_tokens=5, micro_batch_size=1)
    for parameter, expected in zip(recomputed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=2e-5)


def test_blocks_in_bf16_leave_the_loss_near_that_of_fp32(tmp_path: Path, tiny_shape: HybridShape) -> None:
    _, plain = trained(tmp_path, tiny_shape)
    student, narrow = trained(tmp_path, tiny_shape, precision="bf16")
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    losses, expected = (np.array([loss for _, loss in record.curve]) for record in (narrow, plain))
    assert not np.array_equal(losses, expected)
    np.testing.assert_allclose(losses, expected, rtol=0.05)


def test_further_passes_see_every_block_once_in_another_order() -> None:
    sequences_NT = make_blocks(7)
    dataset = SequenceDataset(sequences_NT, epochs=3, seed=5)
    order = [int(dataset[position]["index"]) for position in range(len(dataset))]
    assert order[:7] == list(range(7))
    assert sorted(order[7:14]) == sorted(order[14:]) == list(range(7))
    assert len({tuple(order[start : start + 7]) for start in (0, 7, 14)}) == 3
    # A pass that is gone into in its middle, as after a kill, is the same.
    assert [int(SequenceDataset(sequences_NT, epochs=3, seed=5)[17]["index"])] == order[17:18]


def test_the_last_token_of_a_block_counts_for_the_logits_and_not_for_its_next_token() -> None:
    sequences_NT = make_blocks(1)
    for next_tokens, last in ((False, int(sequences_NT[0, 0])), (True, -100)):
        labels_T = SequenceDataset(sequences_NT, next_tokens=next_tokens)[0]["labels"]
        assert labels_T[:-1].tolist() == sequences_NT[0, 1:].tolist()
        assert int(labels_T[-1]) == last


def test_a_mixed_loss_logs_its_parts(tmp_path: Path, tiny_shape: HybridShape) -> None:
    logged: list[dict[str, float]] = []

    class Listener(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            logged.append(dict(logs))

    pairs = ((2, 2), (7, 7))
    distill(
        make_tiny_model(tiny_shape, seed=1),
        OnlineTeacher(make_tiny_model(tiny_shape)),
        make_blocks(4),
        SETTINGS.model_copy(
            update={
                "objective": Objective(temperature=2.0, cross_entropy=0.5),
                "hidden": HiddenMatch(loss=HIDDEN_LOSSES["mse"](), weight=3.0, pairs=pairs),
            }
        ),
        run=TrainingRun(state_folder=tmp_path, seed=0, callbacks=[Listener()]),
    )
    for logs in logged[:2]:
        parts = logs["divergence"] + 0.5 * logs["cross_entropy"] + 3.0 * logs["hidden"]
        assert logs["loss"] == pytest.approx(parts, rel=1e-5)
        assert min(logs["divergence"], logs["cross_entropy"], logs["hidden"]) > 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"batch_size": 4, "micro_batch_size": 3}, "must divide a process's share of the batch, 4 sequences, got 3"),
        ({"sharding": "fsdp2"}, "sharding needs several processes"),
    ],
)
def test_settings_that_cannot_be_kept_to_are_refused(
    tmp_path: Path, tiny_shape: HybridShape, changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        trained(tmp_path, tiny_shape, **changes)


def test_an_unmarked_state_is_passed_over_and_one_of_another_form_refused(
    tmp_path: Path, tiny_shape: HybridShape
) -> None:
    trained(tmp_path, tiny_shape, save_steps=2)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]
    assert last_whole_state(tmp_path, sharded=False) == tmp_path / "checkpoint-6"
    with pytest.raises(ValueError, match="is of ddp and fsdp2 is asked for; set distill.sharding=ddp"):
        last_whole_state(tmp_path, sharded=True)
    (tmp_path / "checkpoint-6" / MARKER_FILE).unlink()
    assert last_whole_state(tmp_path, sharded=False) is None


def test_a_diverged_student_does_not_take_the_place_of_the_last_good_state(
    tmp_path: Path, tiny_shape: HybridShape
) -> None:
    class Spoiled(OnlineTeacher):
        def targets(self, input_ids_BT: torch.Tensor, index_B: torch.Tensor) -> Any:
            found = super().targets(input_ids_BT, index_B)
            return replace(found, hidden_ND=found.hidden_ND * torch.nan) if 7 in index_B else found

    settings, sequences_NT = SETTINGS.model_copy(update={"save_steps": 2}), make_blocks(200)
    teacher = make_tiny_model(tiny_shape)
    with pytest.raises(DivergedError, match="must stay finite"):
        distill(
            make_tiny_model(tiny_shape, seed=1),
            Spoiled(teacher),
            sequences_NT,
            settings,
            run=TrainingRun(state_folder=tmp_path, seed=0),
        )
    state = last_whole_state(tmp_path, sharded=False)
    assert state is not None
    assert state.name == "checkpoint-2"
    distill(
        make_tiny_model(tiny_shape, seed=1),
        OnlineTeacher(teacher),
        sequences_NT,
        settings,
        run=TrainingRun(state_folder=tmp_path, seed=0),
    )
