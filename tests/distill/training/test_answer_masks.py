"""Distillation on conversations: the loss is the mean over answers of the global batch, however it is shared out."""

# B sequences of a batch, T tokens, V vocabulary

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minitron.data.masks import PackedText
from minitron.data.sequences import blend_text
from minitron.data.sources import TextSource
from minitron.distill.loss.hidden_states import HIDDEN_LOSSES
from minitron.distill.loss.objective import Objective
from minitron.distill.teachers.cache_file import CacheContents
from minitron.distill.teachers.cache_writer import write_teacher_cache
from minitron.distill.teachers.cached import CachedTeacher
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training.model import HiddenMatch
from minitron.distill.training.stage import DistillRecord, DistillSettings, TrainingRun, distill
from minitron.evaluate.perplexity import evaluate_text
from minitron.models.shape import HybridShape
from tests.support.chat_templates import CHATML
from tests.support.models import make_tiny_model, make_tokenizer

SEQ_LEN, STEPS, BATCH = 32, 3, 4
SETTINGS = DistillSettings(batch_size=BATCH, learning_rate=3e-3, warmup_steps=1, save_steps=0, chunk_tokens=7)


@pytest.fixture
def sequences(tmp_path: Path) -> PackedText:
    """Conversations with short and long answers, and text, of which all counts."""
    rows = [{"prompt": "ask " * (1 + n % 4), "completion": "x" * (1 + n * 7 % 31)} for n in range(1, 40)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "chat.jinja").write_text(CHATML)
    (tmp_path / "text.txt").write_text("\n---\n".join(f"line {number} of text" for number in range(40)))
    return blend_text(
        [
            TextSource(path=str(tmp_path / "chat.jsonl"), weight=0.7, chat_template=str(tmp_path / "chat.jinja")),
            TextSource(path=str(tmp_path / "text.txt"), weight=0.3),
        ],
        make_tokenizer(),
        seq_len=SEQ_LEN,
        num_sequences=BATCH * STEPS,
        seed=1,
    )


def counted_positions(sequences: PackedText) -> Any:
    """[N, T] whether a position's loss counts, a position at a time: its next token does, or all of the sequence do."""
    assert sequences.counted_NT is not None
    found = np.zeros(sequences.shape, dtype=bool)
    for sequence, counted_T in enumerate(sequences.counted_NT):
        for position in range(SEQ_LEN):
            last = position == SEQ_LEN - 1
            found[sequence, position] = all(counted_T) if last else counted_T[position + 1]
    return found


def log_softmax(logits: Any) -> Any:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def slow_loss(student: Any, teacher: Any, ids_BT: Any, counted_BT: Any, *, entropy: float = 0.0) -> float:
    """Mean over the counted positions of KL(teacher || student) and a share of cross-entropy, in float64."""
    total, tokens = 0.0, 0
    for ids_T, counted_T in zip(ids_BT, counted_BT, strict=True):
        with torch.no_grad():
            given = torch.from_numpy(ids_T[None].astype(np.int64))
            log_q_TV, log_p_TV = (
                log_softmax(model.double()(given, use_cache=False).logits[0].numpy()) for model in (student, teacher)
            )
        for position in range(len(ids_T)):
            if counted_T[position]:
                tokens += 1
                log_p_V, log_q_V = log_p_TV[position], log_q_TV[position]
                total += float((np.exp(log_p_V) * (log_p_V - log_q_V)).sum())
                if entropy:
                    total -= entropy * float(log_q_V[ids_T[position + 1]])
    return total / tokens


def train(
    folder: Path, shape: HybridShape, sequences: PackedText, teacher: Any = None, **settings: Any
) -> tuple[DistillRecord, dict[str, torch.Tensor]]:
    student = make_tiny_model(shape, seed=1)
    teacher = teacher or OnlineTeacher(make_tiny_model(shape, seed=0))
    run = TrainingRun(state_folder=folder, seed=0)
    record = distill(student, teacher, sequences, SETTINGS.model_copy(update=settings), run=run)
    return record, student.state_dict()


def test_the_masks_are_uneven(sequences: PackedText) -> None:
    shares = counted_positions(sequences).mean(axis=1)
    assert len(set(shares)) > 5
    assert shares.max() == 1
    assert shares.min() < 0.3


@pytest.mark.parametrize("entropy", [0.0, 0.4])
def test_the_loss_is_the_mean_over_answers_of_a_float64_reference(
    tmp_path: Path, tiny_shape: HybridShape, sequences: PackedText, entropy: float
) -> None:
    counted_NT = counted_positions(sequences)
    if entropy:
        counted_NT[:, -1] = False  # there is no label
    expected = slow_loss(
        make_tiny_model(tiny_shape, seed=1),
        make_tiny_model(tiny_shape, seed=0),
        sequences.ids_NT[:BATCH],
        counted_NT[:BATCH],
        entropy=entropy,
    )
    record, _ = train(tmp_path, tiny_shape, sequences, objective=Objective(cross_entropy=entropy))
    assert record.curve[0][1] == pytest.approx(expected, rel=1e-5)


def test_tokens_of_prompts_have_no_gradient(tmp_path: Path, tiny_shape: HybridShape, sequences: PackedText) -> None:
    """A teacher that differs in prompts alone trains the same student."""

    class Altered(OnlineTeacher):
        def targets(self, input_ids_BT: torch.Tensor, index_B: torch.Tensor) -> Any:
            found = super().targets(input_ids_BT, index_B)
            mask_N = torch.from_numpy(counted_positions(sequences)[index_B.numpy()].flatten())
            found.hidden_ND[~mask_N] = 3.0
            return found

    _, expected = train(tmp_path / "one", tiny_shape, sequences)
    _, found = train(tmp_path / "two", tiny_shape, sequences, Altered(make_tiny_model(tiny_shape, seed=0)))
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0, msg=name)


def test_one_batch_and_accumulated_parts_of_it_agree(
    tmp_path: Path, tiny_shape: HybridShape, sequences: PackedText
) -> None:
    whole, weights = train(tmp_path / "4", tiny_shape, sequences)
    for micro in (1, 2):
        found, others = train(tmp_path / str(micro), tiny_shape, sequences, micro_batch_size=micro)
        for (_, loss), (_, expected) in zip(found.curve, whole.curve, strict=True):
            assert loss == pytest.approx(expected, rel=1e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(others[name], weight, rtol=0, atol=2e-5, msg=name)


def test_a_run_that_stops_goes_on_with_the_same_masks(
    tmp_path: Path, tiny_shape: HybridShape, sequences: PackedText
) -> None:
    _, expected = train(tmp_path / "whole", tiny_shape, sequences, epochs=2)
    for stop in (2 * BATCH * SEQ_LEN, None):
        student = make_tiny_model(tiny_shape, seed=1)
        run = TrainingRun(state_folder=tmp_path / "stopped", seed=0, stop_after_tokens=stop)
        teacher = OnlineTeacher(make_tiny_model(tiny_shape, seed=0))
        distill(student, teacher, sequences, SETTINGS.model_copy(update={"epochs": 2}), run=run)
    for name, weight in student.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0, msg=name)


def test_a_cached_teacher_teaches_the_same_answers(
    tmp_path: Path, tiny_shape: HybridShape, sequences: PackedText
) -> None:
    vocab_size = tiny_shape.vocab_size
    contents = CacheContents(vocab_size=vocab_size, top_k=vocab_size - 1, made_from={})
    cache = write_teacher_cache(
        OnlineTeacher(make_tiny_model(tiny_shape, seed=0)), sequences, tmp_path / "cache", contents, batch_size=3
    )
    cached, _ = train(tmp_path / "cached", tiny_shape, sequences, CachedTeacher(cache))
    online, _ = train(tmp_path / "online", tiny_shape, sequences)
    for (_, loss), (_, expected) in zip(cached.curve, online.curve, strict=True):
        assert loss == pytest.approx(expected, rel=2e-2)  # probabilities are stored in 16 bits


def test_hidden_states_are_matched_at_answers_alone(
    tmp_path: Path, tiny_shape: HybridShape, sequences: PackedText
) -> None:
    hidden = HiddenMatch(loss=HIDDEN_LOSSES["mse"](), weight=0.5, pairs=((1, 1),))
    whole, _ = train(tmp_path / "4", tiny_shape, sequences, hidden=hidden)
    accumulated, _ = train(tmp_path / "1", tiny_shape, sequences, hidden=hidden, micro_batch_size=1)
    plain, _ = train(tmp_path / "plain", tiny_shape, sequences)
    assert accumulated.curve[0][1] == pytest.approx(whole.curve[0][1], rel=1e-5)
    assert whole.curve[0][1] > plain.curve[0][1]


def test_evaluation_is_the_mean_over_answers_of_a_float64_reference(
    tiny_shape: HybridShape, sequences: PackedText
) -> None:
    counted_NT = counted_positions(sequences)
    counted_NT[:, -1] = False
    models = [make_tiny_model(tiny_shape, seed=seed) for seed in (1, 0)]
    for batch_size in (1, 5):
        found = evaluate_text(models[0], sequences, teacher=models[1], batch_size=batch_size)
        doubles = [make_tiny_model(tiny_shape, seed=seed) for seed in (1, 0)]
        kl = slow_loss(*doubles, sequences.ids_NT, counted_NT)
        both = slow_loss(*doubles, sequences.ids_NT, counted_NT, entropy=1.0)
        assert found.kl_to_teacher == pytest.approx(kl, rel=1e-5)
        assert found.loss == pytest.approx(both - kl, rel=1e-5)


def test_evaluation_without_an_answer_is_refused(tiny_shape: HybridShape, sequences: PackedText) -> None:
    nothing = PackedText(ids_NT=sequences.ids_NT, counted_NT=np.zeros(sequences.shape, dtype=bool))
    with pytest.raises(ValueError, match="must have tokens that count"):
        evaluate_text(make_tiny_model(tiny_shape, seed=1), nothing)
