"""Caches of every family: published models, a plain loop over layers, and what transformers allocates."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from minitron.estimate.devices import find_device
from minitron.estimate.serving.fit import fit
from minitron.estimate.serving.memory import memory_bytes, memory_parts
from minitron.estimate.serving.model_fit import Memory, fit_model
from minitron.estimate.serving.throughput import mean_within, predict_tokens_per_second, serving_cost, tokens_per_second
from minitron.estimate.serving.workload import Engine, Lengths, Workload
from minitron.models.config import shape_from_config
from minitron.models.families import FAMILIES
from minitron.models.shape import HybridShape
from minitron.prune.laws.tiny_model import tiny_model
from minitron.prune.laws.tiny_shape import tiny_shape
from minitron.units import GIB, MIB
from tests.support import published_configs as published

PATTERNS = {
    "mistral": ("SSS", "TT"),
    "gemma3_text": ("SSTS", "SSSSST", "SS"),
    "smollm3": ("TNT",),
    "qwen3_moe": ("TXX",),
    "granitemoehybrid": ("HHTH", "HH", "TT"),
    "qwen3_5_text": ("GGGT", "GTTGG", "GG"),
    "qwen3_5_moe_text": ("GGT",),
}
KINDS = [(model_type, pattern) for model_type, patterns in PATTERNS.items() for pattern in patterns]
BYTES = {"fp32": 4, "bf16": 2, "fp8": 1}


@pytest.mark.parametrize(
    ("config", "params"),
    [
        (published.MISTRAL_7B, 7_241_732_096),
        (published.QWEN2_5_7B, 7_615_616_512),
        (published.SMOLLM3_3B, 3_075_098_624),
        (published.GEMMA3_1B, 999_885_952),
        (published.QWEN3_30B_A3B, 30_532_122_624),
    ],
)
def test_a_published_model_has_its_published_parameters(config: dict[str, Any], params: int) -> None:
    assert shape_from_config(config).params == params


@pytest.mark.parametrize(
    ("config", "billions", "active"),
    [
        (published.QWEN3_30B_A3B, 30.5, 3.3),
        (published.GRANITE_4_H_SMALL, 32, 9),
        (published.BAMBA_9B, 9.78, 9.78),
    ],
)
def test_rounded_numbers_of_model_cards_are_met(config: dict[str, Any], billions: float, active: float) -> None:
    shape = shape_from_config(config)
    assert shape.params / 1e9 == pytest.approx(billions, rel=0.01)
    # Cards count the embeddings that a token looks up, too.
    looked_up = shape.vocab_size * shape.hidden_size * (1 - shape.tie_word_embeddings)
    assert (shape.family.active_params(shape.counts, shape.sizes) + looked_up) / 1e9 == pytest.approx(active, rel=0.03)


@pytest.mark.parametrize("config", published.CONFIGS, ids=lambda config: config["model_type"])
def test_fit_takes_the_configuration_and_counts_what_transformers_makes(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    memory = Memory(device=find_device("h200"))
    for accounting in ("plain", "vllm"):
        workload = Workload(context_tokens=32768, accounting=accounting)
        if (config["model_type"], accounting) == ("bamba", "vllm"):
            with pytest.raises(ValueError, match=r"it dropped bamba after 0\.23\.0; use accounting plain"):
                fit_model(tmp_path / "config.json", workload, memory)
            continue
        found = fit_model(tmp_path / "config.json", workload, memory, lengths=Lengths()).to_json()
        assert found["params"] == sum(each.numel() for each in model.parameters())
        assert found["fits"]
        assert json.loads(json.dumps(found)) == found
        if accounting == "vllm":
            windows = "S" in shape_from_config(config).hybrid_override_pattern
            assert ("--max-num-batched-tokens 2048" in str(found["serve"])) == windows


@pytest.mark.parametrize(
    ("config", "kv", "state"),
    [
        # 32 layers, 8 KV heads of 128, bf16: 128 KiB a token, of 4096 tokens whatever the context.
        (published.MISTRAL_7B, 512 * MIB, 0),
        # 4 layers of 131072 tokens and 22 of 512, 1 KV head of 256: 1 KiB a token and layer.
        (published.GEMMA3_1B, (4 * 131072 + 22 * 512) * 1024, 0),
        # 4 layers, 8 KV heads of 128; 36 states of 128 x 64 x 128 in fp32, with 3 inputs of 8448 in bf16.
        (published.GRANITE_4_H_SMALL, 2 * GIB, 36 * (128 * 64 * 128 * 4 + 3 * 8448 * 2)),
        # 8 layers, 4 KV heads of 256; 24 states of 32 x 128 x 128 in fp32, with 3 inputs of 8192 in bf16.
        (published.QWEN3_5_LIKE, 4 * GIB, 24 * (32 * 128 * 128 * 4 + 3 * 8192 * 2)),
    ],
)
def test_a_long_sequence_takes_what_counting_by_hand_gives(config: dict[str, Any], kv: int, state: int) -> None:
    memory = memory_bytes(shape_from_config(config), Workload(context_tokens=131072))
    assert (memory.kv_bytes, memory.ssm_bytes + memory.conv_bytes) == (kv, state)


# transformers asks an attention block how long the cache is.
@pytest.mark.parametrize(("model_type", "pattern"), [kind for kind in KINDS if set(kind[1]) - set("GH")])
def test_plain_bytes_are_those_that_transformers_allocates(model_type: str, pattern: str) -> None:
    shape = tiny_shape(model_type, pattern, seed=5)
    config = {"model_type": model_type, "sliding_window": shape.sliding_window or None}
    model = tiny_model(config, shape, seed=0).to(torch.bfloat16)
    tokens, sequences = 19, 2
    with torch.no_grad():
        cache: Any = model(torch.full((sequences, tokens), 5), use_cache=True).past_key_values
    kv = {"kv": 0, "window": 0}
    matrix = conv = 0
    for layer, kind in zip(cache.layers, pattern, strict=True):
        kept = shape.family.keeps[kind]
        if kept == "state":
            matrix += sum(each.numel() for each in _tensors(layer.recurrent_states))
            conv += sum(each.numel() for each in _tensors(layer.conv_states))
        else:
            kv[kept] += layer.keys.nbytes + layer.values.nbytes
    memory = memory_bytes(shape, Workload(context_tokens=tokens, sequences=sequences, ssm_dtype="bf16"))
    # transformers keeps one token fewer of a window, and one input more of a convolution.
    window = shape.sliding_window
    assert kv["kv"] + kv["window"] // max(1, window - 1) * window == memory.kv_bytes
    assert 2 * matrix == memory.ssm_bytes
    kernel = 1 if shape.family.state is None else shape.sizes[shape.family.state.kernel]
    assert 2 * conv * (kernel - 1) == memory.conv_bytes * kernel


def _tensors(states: Any) -> list[torch.Tensor]:
    return list(states.values()) if isinstance(states, dict) else [states]


def loop(shape: HybridShape, workload: Workload) -> int:
    """Bytes of vLLM's pool for all sequences, group by group and block by block."""
    token = 2 * shape.num_key_value_heads * shape.head_dim * BYTES[workload.kv_dtype]
    layers = dict.fromkeys(("kv", "window", "state"), 0)
    for kind in shape.hybrid_override_pattern:
        layers[shape.family.keeps[kind]] += 1
    state = copies = 0
    if "H" in shape.family.block_kinds:
        inner = shape.mamba_num_heads * shape.mamba_head_dim
        inputs = inner + 2 * shape.n_groups * shape.ssm_state_size
        state = inner * shape.ssm_state_size * BYTES[workload.ssm_dtype]
        state, copies = state + inputs * (shape.conv_kernel - 1) * 2, 3
    if "G" in shape.family.block_kinds:
        values = shape.linear_num_value_heads * shape.linear_value_head_dim
        inputs = values + 2 * shape.linear_num_key_heads * shape.linear_key_head_dim
        state = values * shape.linear_key_head_dim * BYTES[workload.ssm_dtype]
        state, copies = state + inputs * (shape.linear_conv_kernel_dim - 1) * 2, 2
    block = 16
    while layers["state"] and block * token < state:
        block += 16
    page = block * token if layers["kv"] + layers["window"] else state
    there = [number for number in layers.values() if number]
    group = max(there) if max(there) < 1.5 * min(there) else min(there)
    blocks = 0
    for kept, number in layers.items():
        for _ in range(0, number, group):
            if kept == "kv":
                blocks += len(range(0, workload.context_tokens, block))
            elif kept == "window":
                held = shape.sliding_window - 1 + 2 * workload.engine.max_num_batched_tokens
                blocks += len(range(0, min(workload.context_tokens, held), block)) + 1
            else:
                blocks += copies if workload.engine.prefix_caching else 1
    return (1 + workload.sequences * blocks) * group * page


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    kv=st.sampled_from(["bf16", "fp8"]),
    ssm=st.sampled_from(["fp32", "bf16"]),
    context=st.integers(1, 900),
    window=st.integers(1, 400),
    sequences=st.integers(1, 3),
    prefixes=st.booleans(),
    batched=st.integers(1, 200),
)
def test_vllms_bytes_equal_a_plain_loop(
    kind: tuple[str, str], kv: str, ssm: str, context: int, window: int, sequences: int, prefixes: bool, batched: int
) -> None:
    shape = tiny_shape(*kind, seed=1)
    if shape.sliding_window:
        shape = HybridShape(**{**vars_of(shape), "sliding_window": window})
    engine = Engine(prefix_caching=prefixes, max_num_batched_tokens=batched)
    workload = Workload(
        context_tokens=context, sequences=sequences, kv_dtype=kv, ssm_dtype=ssm, accounting="vllm", engine=engine
    )
    memory = memory_bytes(shape, workload)
    assert memory.kv_bytes + memory.ssm_bytes + memory.conv_bytes == loop(shape, workload)


def vars_of(shape: HybridShape) -> dict[str, Any]:
    pattern = {"model_type": shape.model_type, "hybrid_override_pattern": shape.hybrid_override_pattern}
    return {**shape.sizes, **pattern}


@settings(max_examples=80, deadline=None)
@given(
    config=st.sampled_from([each for each in published.CONFIGS if each["model_type"] != "bamba"]),
    context=st.integers(1, 200_000),
    sequences=st.integers(1, 20),
    spare_mib=st.integers(1, 20_000),
    accounting=st.sampled_from(["plain", "vllm"]),
)
def test_the_largest_context_and_sequences_are_the_last_that_fit(
    config: dict[str, Any], context: int, sequences: int, spare_mib: int, accounting: str
) -> None:
    shape = shape_from_config(config)
    engine = Engine(max_num_seqs=10_000_000)
    workload = Workload(
        context_tokens=context, sequences=sequences, accounting=accounting, engine=engine, workspace_gib=0
    )
    budget = 2 * shape.params + spare_mib * MIB
    report = fit(shape, workload, budget)
    for largest, field in ((report.max_context_tokens, "context_tokens"), (report.max_sequences, "sequences")):
        if largest is None:
            assert fit(shape, workload.changed(context_tokens=10**9), budget).fits
            continue
        if largest > 0:
            assert fit(shape, workload.changed(**{field: largest}), budget).fits
        assert not fit(shape, workload.changed(**{field: largest + 1}), budget).fits


@pytest.mark.parametrize(("model_type", "pattern"), KINDS)
@pytest.mark.parametrize("accounting", ["plain", "vllm"])
def test_many_shapes_at_once_equal_one_at_a_time(model_type: str, pattern: str, accounting: str) -> None:
    shape = tiny_shape(model_type, pattern, seed=2)
    workload = Workload(context_tokens=40, accounting=accounting, engine=Engine(max_num_batched_tokens=4))
    lengths, device = Lengths(input_tokens=7, output_tokens=9), find_device("a10g")
    kv_heads = np.array([shape.num_key_value_heads, 1])
    sizes = {name: np.full(2, size) for name, size in shape.sizes.items()}
    sizes |= {"num_key_value_heads": kv_heads, "num_attention_heads": kv_heads * 2}
    parts = memory_parts(shape.family, shape.counts, sizes, workload)
    cost = serving_cost(shape.family, shape.counts, sizes, workload, lengths, GIB * 4)
    speeds = tokens_per_second(cost, device, lengths)
    for index, heads in enumerate(kv_heads.tolist()):
        one = HybridShape(**{**vars_of(shape), "num_key_value_heads": heads, "num_attention_heads": 2 * heads})
        assert (
            sum(int(np.broadcast_to(part, 2)[index]) for part in parts.values())
            == memory_bytes(one, workload).total_bytes
        )
        alone = predict_tokens_per_second(one, workload, device, lengths, 4 * GIB)
        assert np.broadcast_to(speeds, 2)[index] == pytest.approx(alone, rel=1e-12)


@given(window=st.integers(1, 300), start=st.integers(0, 200), length=st.integers(1, 200))
def test_the_mean_context_within_a_window_is_that_of_every_token(window: int, start: int, length: int) -> None:
    contexts = [min(window, token + 0.5) for token in range(start, start + length)]
    assert float(mean_within(window, start, start + length)) == pytest.approx(np.mean(contexts), abs=0.5 / length)


def test_a_window_makes_long_contexts_faster() -> None:
    lengths, device = Lengths(input_tokens=30_000, output_tokens=2000), find_device("a10g")
    windowed = shape_from_config(published.MISTRAL_7B)
    whole = shape_from_config({**published.MISTRAL_7B, "sliding_window": None})
    short = shape_from_config({**published.MISTRAL_7B, "sliding_window": 40_000})
    workload, budget = Workload(context_tokens=1), 20 * GIB
    speeds = [predict_tokens_per_second(each, workload, device, lengths, budget) for each in (windowed, short, whole)]
    assert speeds[0] > 2 * speeds[1]
    assert speeds[1] == pytest.approx(speeds[2], rel=1e-12)


def test_vllm_is_not_asked_about_heads_that_it_would_read_otherwise() -> None:
    workload = Workload(context_tokens=100, accounting="vllm")
    shape = shape_from_config(published.QWEN2_5_7B)
    assert fit(shape, workload, 80 * GIB).fits
    with pytest.raises(ValueError, match=r"needs head_dim=64 in a qwen2, .* got 128; keep hidden_size"):
        fit(shape.resized(hidden_size=1792), workload, 80 * GIB)


def test_every_family_that_keeps_a_state_says_what_it_is() -> None:
    for family in FAMILIES.values():
        assert (family.state is not None) == ("state" in family.keeps.values())
