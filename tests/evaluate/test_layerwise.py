"""Evaluation block by block gives the numbers of whole models, for every kind of block, head and mask."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.masks import PackedText
from minitron.errors import DataError, NotFiniteError
from minitron.evaluate import layerwise
from minitron.evaluate.layerwise import evaluate_states, run_text
from minitron.evaluate.perplexity import TextEvaluation, evaluate_text
from minitron.models.shape import HybridShape
from minitron.prune.laws.tiny_model import exact_logits
from minitron.runtime import stack as stacks
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack
from minitron.runtime.vocabulary import restrict_vocabulary, restricted_stack
from tests.support.exact import in_fp64
from tests.support.models import (
    make_dense_shape,
    make_moe_shape,
    make_tiny_model,
    make_tiny_shape,
    write_tiny_checkpoint,
)

SHAPES = {
    "nemotron_h": make_tiny_shape(hybrid_override_pattern="M-*"),
    "experts": make_moe_shape(),
    "gemma3_text, tied": make_dense_shape("gemma3_text", hybrid_override_pattern="ST", tie_word_embeddings=1),
}
# Of whole models in fp64 what layerwise ones give in fp32, relative.
TOLERANCE = 2e-6


@pytest.fixture(autouse=True)
def _several_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several slices of a head, groups of sequences and tiles, none of which divides what it is of."""
    monkeypatch.setattr(stacks, "HEAD_ROWS", 100)
    monkeypatch.setattr(layerwise, "GROUP_TOKENS", 25)
    monkeypatch.setattr(layerwise, "TILE_TOKENS", 7)


def packed(*, masked: bool) -> PackedText:
    rng = np.random.default_rng(1)
    ids_NT, counted_NT = rng.integers(3, 250, (5, 11), dtype=np.int32), rng.random((5, 11)) < 0.4
    counted_NT[3] = False  # a sequence of which nothing counts
    return PackedText(ids_NT=ids_NT, counted_NT=counted_NT if masked else None)


def exact(shape: HybridShape, teacher: HybridShape, text: PackedText) -> TextEvaluation:
    """Loss and KL of whole models in fp64, from all of their logits."""
    ids_NT = torch.from_numpy(text.ids_NT).long()
    models = (in_fp64(make_tiny_model(one).double().eval()) for one in (shape, teacher))
    logits, others = (exact_logits(one, ids_NT)[:, :-1] for one in models)
    rows = min(logits.shape[-1], others.shape[-1])
    counted = torch.from_numpy(text.all_counted()[:, 1:])
    loss = -F.log_softmax(logits, dim=-1).gather(-1, ids_NT[:, 1:, None])[..., 0]
    log_q, log_p = (F.log_softmax(found[..., :rows], dim=-1) for found in (logits, others))
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    return TextEvaluation(loss=float(loss[counted].mean()), kl_to_teacher=float(kl[counted].mean()))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("student_rows", "teacher_rows"), [(271, 271), (271, 288), (310, 271)])
@pytest.mark.parametrize("kind", SHAPES)
def test_block_by_block_equals_whole_models_in_fp64(
    kind: str, student_rows: int, teacher_rows: int, masked: bool, tmp_path: Path
) -> None:
    shape, text = SHAPES[kind], packed(masked=masked)
    student, teacher = (replace(shape, vocab_size=rows) for rows in (student_rows, teacher_rows))
    teacher = replace(teacher, intermediate_size=29)
    states = [
        run_text(
            LayerwiseStack(open_checkpoint(write_tiny_checkpoint(tmp_path / name, shape=one))),
            text,
            folder=tmp_path / f"{name} states",
        )
        for name, one in (("student", student), ("teacher", teacher))
    ]
    found, expected = evaluate_states(states[0], teacher=states[1]), exact(student, teacher, text)
    assert found.kl_to_teacher is not None
    assert found.loss == pytest.approx(expected.loss, rel=TOLERANCE)
    assert found.kl_to_teacher == pytest.approx(expected.kl_to_teacher, rel=TOLERANCE)
    alone = evaluate_states(states[0])
    assert alone.loss == pytest.approx(expected.loss, rel=TOLERANCE)
    assert alone.kl_to_teacher is None


def test_a_model_is_as_far_from_itself_as_nothing(tiny_checkpoint: Path) -> None:
    states = run_text(LayerwiseStack(open_checkpoint(tiny_checkpoint)), packed(masked=False))
    assert evaluate_states(states, teacher=states).kl_to_teacher == 0.0


@pytest.mark.parametrize("kind", SHAPES)
def test_bf16_is_that_of_a_model_loaded_in_bf16(kind: str, tmp_path: Path) -> None:
    shape, text = SHAPES[kind], packed(masked=True)
    folder = write_tiny_checkpoint(tmp_path / "model", shape=shape)
    other = write_tiny_checkpoint(tmp_path / "teacher", shape=replace(shape, intermediate_size=29))
    whole, teacher = (load_model(one, dtype=torch.bfloat16) for one in (folder, other))
    stacked = [LayerwiseStack(open_checkpoint(one), dtype=torch.bfloat16) for one in (folder, other)]
    held = {name: tensor.dtype for name, tensor in whole.base_model.layers[1].state_dict().items()}
    for _, block in stacked[0].blocks([1]):
        assert {name: tensor.dtype for name, tensor in block.state_dict().items()} == held
    states = [run_text(one, text, folder=tmp_path / f"{number}") for number, one in enumerate(stacked)]
    found = evaluate_states(states[0], teacher=states[1])
    expected = evaluate_text(whole, text, teacher=teacher, batch_size=1)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.kl_to_teacher == pytest.approx(expected.kl_to_teacher, rel=1e-6)


def test_a_restricted_vocabulary_is_that_of_a_loaded_model(tiny_checkpoint: Path) -> None:
    kept, text = np.arange(0, 270, 1)[::-1].copy(), packed(masked=False)
    whole = load_model(tiny_checkpoint)
    restrict_vocabulary(whole, kept)
    found = evaluate_states(run_text(restricted_stack(open_checkpoint(tiny_checkpoint), kept), text))
    assert found.loss == pytest.approx(evaluate_text(whole, text).loss, rel=1e-6)


def test_hidden_states_in_files_are_those_in_memory_and_only_the_last_ones_are_left(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    text, stack = packed(masked=True), LayerwiseStack(open_checkpoint(tiny_checkpoint))
    in_files, in_memory = run_text(stack, text, folder=tmp_path / "states"), run_text(stack, text)
    for row in range(len(text)):
        torch.testing.assert_close(in_files.hidden(row), in_memory.hidden(row), rtol=0, atol=0)
    assert len(list((tmp_path / "states").iterdir())) == len(text)


def test_text_that_nothing_can_be_said_of_is_refused(tiny_checkpoint: Path) -> None:
    stack = LayerwiseStack(open_checkpoint(tiny_checkpoint))
    with pytest.raises(DataError, match="at least 2 tokens"):
        run_text(stack, np.full((2, 1), 7, dtype=np.int32))
    nothing = PackedText(ids_NT=np.full((2, 5), 7, dtype=np.int32), counted_NT=np.zeros((2, 5), dtype=bool))
    with pytest.raises(DataError, match="have no answer; set loss: all"):
        evaluate_states(run_text(stack, nothing))


def test_weights_that_are_no_numbers_are_noticed(tiny_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    plain = LayerwiseStack(checkpoint)

    def read(name: str, first: int, count: int | None) -> np.ndarray:
        found = plain._read(name, first, count)
        return found * np.float32(np.nan) if name == checkpoint.shape.family.final_norm else found

    with pytest.raises(NotFiniteError, match="loss on held-out text must be finite"):
        evaluate_states(run_text(LayerwiseStack(checkpoint, read=read), packed(masked=False)))
