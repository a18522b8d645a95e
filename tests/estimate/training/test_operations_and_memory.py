"""Operations and memory of training, held against counts by hand."""

from dataclasses import replace
from typing import Any

import pytest

from minitron.estimate.devices import find_device
from minitron.estimate.training.activations import activation_bytes
from minitron.estimate.training.memory import longest_sequence, training_bytes, training_verdict, writing_bytes
from minitron.estimate.training.operations import device_hours, forward_operations, phase_length, training_operations
from minitron.estimate.training.setup import TrainingSetup
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_shape

SHAPE = make_tiny_shape()
SETUP = TrainingSetup(seq_len=16, micro_batch_size=3)

# M-*MM-*- with D 22, F 36, 6 heads of 10 over 3 KV heads, H 8, P 5, G 2, N 7, k 4, V 271; blocks of T 16 tokens.
MAMBA = 22 + (2 * 40 + 2 * 14 + 8) * 22 + (40 + 28) * (4 + 1) + 3 * 8 + 40 + 40 * 22
MLP = 22 + 2 * 22 * 36
ATTENTION = 22 + 2 * 60 * 22 + 2 * 30 * 22
SCAN = 2 * 128 * (2 * 7 + 40) + 2 * 2 * 40 * 7
BLOCKS = 2 * (3 * MAMBA + 3 * MLP + 2 * ATTENTION + 22) + 2 * (2 * 2 * 60 * 8) + 3 * SCAN
HEAD = 2 * 271 * 22


def test_a_forward_pass_is_what_counting_by_hand_gives() -> None:
    assert forward_operations(SHAPE, 16) == BLOCKS + HEAD


@pytest.mark.parametrize(("checkpointing", "passes"), [(False, 3), (True, 4)])
def test_training_runs_blocks_three_or_four_times_the_head_three_times_and_the_teacher_once(
    checkpointing: bool, passes: int
) -> None:
    teacher = make_tiny_shape(hidden_size=26)
    alone = training_operations(SHAPE, 16, checkpointing=checkpointing)
    assert alone == passes * BLOCKS + 3 * HEAD
    taught = training_operations(SHAPE, 16, teacher=teacher, checkpointing=checkpointing)
    assert taught - alone == forward_operations(teacher, 16)


def test_a_table_that_is_looked_up_costs_nothing_and_a_tied_one_costs_its_products() -> None:
    tied, own = (make_dense_shape("qwen3", tie_word_embeddings=tied) for tied in (1, 0))
    assert forward_operations(tied, 8) == forward_operations(own, 8)
    assert own.params - tied.params == 271 * 24


def test_experts_cost_what_a_token_goes_to() -> None:
    few, many = (forward_operations(make_moe_shape(num_experts_per_tok=used), 8) for used in (2, 4))
    assert many - few == 2 * 2 * (2 * 2 * 11 * 22)  # two blocks, two experts more, two matrices of each


def test_hours_are_operations_at_the_share_of_the_peak_rate() -> None:
    assert device_hours(989e12 * 3600, find_device("h100"), mfu=0.25) == pytest.approx(4)


@pytest.mark.parametrize(("tokens", "epochs"), [(1000, 1), (1000, 3), (63, 1)])
def test_steps_are_whole_batches_of_whole_blocks(tokens: int, epochs: int) -> None:
    length = phase_length(tokens, seq_len=7, batch_size=5, epochs=epochs)
    assert length.steps == tokens // 7 * epochs // 5
    assert length.trained_tokens == length.steps * 35 <= tokens * epochs
    assert length.packed_tokens == tokens // 7 * 7


@pytest.mark.parametrize(
    ("optim", "weights_dtype", "state"),
    [
        ("adamw_torch", "fp32", 8),
        ("adamw_torch", "bf16", 4),
        ("adamw_torch_8bit", "bf16", 2 + 8 / 256),
        ("adamw_torch_4bit", "fp32", 1 + 8 / 256),
        ("adafactor", "fp32", 0),
        ("of another library", "fp32", 8),
    ],
)
def test_weights_gradients_and_states_are_counted(optim: str, weights_dtype: str, state: float) -> None:
    weight = {"fp32": 4, "bf16": 2}[weights_dtype]
    found = training_bytes(SHAPE, None, replace(SETUP, optim=optim, weights_dtype=weights_dtype, teacher_mode=None))
    assert found.weights_bytes == found.gradients_bytes == SHAPE.params * weight
    assert found.optimizer_bytes == int(SHAPE.params * state)
    assert found.teacher_bytes == found.passing_bytes == found.gathered_bytes == 0


def test_copies_are_held_by_each_device_and_shards_are_divided() -> None:
    teacher = make_tiny_shape(hidden_size=26)
    one, ddp = (training_bytes(SHAPE, teacher, replace(SETUP, devices=devices)) for devices in (1, 4))
    shared = training_bytes(SHAPE, teacher, replace(SETUP, devices=4, sharded=True))
    assert ddp.weights_bytes == one.weights_bytes == 4 * SHAPE.params
    assert ddp.gradients_bytes == 2 * one.gradients_bytes  # DDP's buckets
    for part in ("weights_bytes", "gradients_bytes", "optimizer_bytes", "teacher_bytes"):
        assert getattr(shared, part) == getattr(one, part) // 4
    assert shared.gathered_bytes > 0 == one.gathered_bytes


@pytest.mark.parametrize(
    ("mode", "held"),
    [("online", 2 * SHAPE.params), ("cached", 0), ("layerwise", 4 * (ATTENTION + 271 * 22 + 5 * 16 * 22))],
)
def test_a_teacher_takes_what_its_mode_holds(mode: str, held: int) -> None:
    setup = replace(SETUP, teacher_mode=mode, teacher_dtype="bf16", window_sequences=5)
    assert training_bytes(SHAPE, SHAPE, setup).teacher_bytes == held
    assert writing_bytes(SHAPE, setup).teacher_bytes == held


def test_autocast_keeps_narrow_copies_of_wide_weights_only() -> None:
    narrow = replace(SETUP, precision="bf16")
    assert training_bytes(SHAPE, None, narrow).passing_bytes == 2 * SHAPE.params
    assert training_bytes(SHAPE, None, replace(narrow, checkpointing=True)).passing_bytes == 2 * ATTENTION
    assert training_bytes(SHAPE, None, replace(narrow, weights_dtype="bf16")).passing_bytes == 0


def test_products_in_fp8_are_counted_as_those_in_bf16_which_the_backward_pass_keeps() -> None:
    counted = {
        precision: training_bytes(SHAPE, None, replace(SETUP, precision=precision)) for precision in ("fp8", "bf16")
    }
    assert counted["fp8"] == counted["bf16"]


def test_activations_are_what_products_read_and_write() -> None:
    # In fp32; two more fp32 copies of a block's norm, and the gradients of the largest block.
    stream = 4 * 22 + 2 * 4 * 22
    mamba = stream + 4 * (116 + 22 + 68 + 40 + 22)
    mlp = stream + 4 * 2 * (22 + 36)
    attention = stream + 4 * (2 * (60 + 22) + 2 * (30 + 22))
    largest = max(mamba, mlp, attention)
    assert activation_bytes(SHAPE, SETUP) == 3 * mamba + 3 * mlp + 2 * attention + largest
    recomputed = replace(SETUP, checkpointing=True)
    assert activation_bytes(SHAPE, recomputed) == 8 * 22 * 4 + 2 * largest
    assert activation_bytes(SHAPE, replace(recomputed, offloaded=True)) == 2 * 22 * 4 + 2 * largest


@pytest.mark.parametrize("changes", [{}, {"checkpointing": True, "precision": "bf16", "weights_dtype": "bf16"}])
def test_the_longest_sequence_fits_and_one_token_more_does_not(changes: dict[str, Any]) -> None:
    setup = replace(SETUP, **changes)
    memory = 2**31
    longest = longest_sequence(SHAPE, SHAPE, setup, memory)
    fits, beyond = (training_bytes(SHAPE, SHAPE, replace(setup, seq_len=longest + more)).total_bytes for more in (0, 1))
    assert 0 < fits <= memory < beyond
    assert longest_sequence(SHAPE, SHAPE, setup, 1000) == 0


@pytest.mark.parametrize(("total", "verdict"), [(95, "fits"), (96, "tight"), (100, "tight"), (101, "does not fit")])
def test_the_last_twentieth_of_a_memory_is_tight(total: int, verdict: str) -> None:
    assert training_verdict(total, 100) == verdict


def test_parts_of_sequences_divide_activations_but_keys_and_values_that_are_gathered() -> None:
    setup = replace(SETUP, devices=4)
    whole, parts = (training_bytes(SHAPE, None, replace(setup, context_parallel=n)) for n in (1, 4))
    # Of two blocks of attention, and once more of the one in use: 3 + 6 heads for 4 times the 12 tokens of a part.
    gathered = 3 * (4 * 12) * 2 * (3 + 6) * 10 * 4
    assert parts.activations_bytes == whole.activations_bytes // 4 + gathered
    assert parts.weights_bytes == whole.weights_bytes
    assert replace(setup, seq_len=17, context_parallel=4).tokens == 3 * 5
