"""vLLM's accounting: its published blocks and bytes, a plain loop as an oracle, and verdicts that keep their word."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitron.estimate.devices import find_device, usable_bytes
from minitron.estimate.serving.fit import fit
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.vllm_cache import cache_blocks, null_block_bytes
from minitron.estimate.serving.vllm_command import longest_context, serve_command
from minitron.estimate.serving.workload import Engine, Workload
from minitron.models.shape import HybridShape
from minitron.units import GIB
from tests.support.models import make_tiny_shape
from tests.support.published import NANO_9B, NANO_12B, PATTERN_8B, published

H_8B = published(PATTERN_8B, 4096, 21504, 32, 128, 64)
PAGED = Workload(context_tokens=131072, accounting="vllm")
ALONE = PAGED.changed(engine=Engine(prefix_caching=False))


@pytest.mark.parametrize(
    ("shape", "fp32", "bf16_state", "fp8_cache", "block"),
    [
        (NANO_12B, 3.153, 3.092, 1.671, 1312),
        (NANO_9B, 2.142, 2.082, 1.154, 1312),
        (H_8B, 2.111, 2.054, 1.111, 1040),
    ],
)
def test_one_long_sequence_takes_the_published_blocks_and_bytes(
    shape: HybridShape, fp32: float, bf16_state: float, fp8_cache: float, block: int
) -> None:
    for workload, gib in (
        (ALONE, fp32),
        (ALONE.changed(ssm_dtype="bf16"), bf16_state),
        (ALONE.changed(kv_dtype="fp8"), fp8_cache),
    ):
        memory = memory_bytes(shape, workload)
        null_block = null_block_bytes(shape.family, shape.counts, shape.sizes, workload)
        cache = memory.kv_bytes + memory.ssm_bytes + memory.conv_bytes - null_block
        assert cache / GIB == pytest.approx(gib, abs=5e-4)
    blocks = cache_blocks(shape.family, shape.counts, shape.sizes, PAGED)
    assert blocks is not None
    assert blocks.block_tokens == block


def test_a_narrower_state_makes_smaller_blocks() -> None:
    blocks = cache_blocks(NANO_9B.family, NANO_9B.counts, NANO_9B.sizes, PAGED.changed(ssm_dtype="bf16"))
    assert blocks is not None
    assert blocks.block_tokens == 672


def oracle(shape: HybridShape, workload: Workload) -> int:
    """Bytes of all sequences, layer by layer and block by block."""
    size = {"fp32": 4, "bf16": 2, "fp8": 1}
    token = 2 * shape.num_key_value_heads * shape.head_dim * size[workload.kv_dtype]
    inner = shape.mamba_num_heads * shape.mamba_head_dim
    state = (inner + 2 * shape.n_groups * shape.ssm_state_size) * (shape.conv_kernel - 1) * 2
    state += inner * shape.ssm_state_size * size[workload.ssm_dtype]
    attention, mamba = shape.count("*"), shape.count("M")
    block = 16
    while attention < len(shape.hybrid_override_pattern) and block * token < state:
        block += 16
    page = block * token if attention else state
    fewest, most = min(attention, mamba), max(attention, mamba)
    group = (most if not fewest or most < 1.5 * fewest else fewest) or 1
    total = page * group if attention or mamba else 0  # the null block
    for _ in range(workload.sequences):
        for first in range(0, attention, group):
            tokens = 0
            while tokens < workload.context_tokens:
                tokens += block
                total += page * group
            assert first < attention
        for _ in range(0, mamba, group):
            total += page * group * (3 if workload.engine.prefix_caching else 1)
    return total


@settings(max_examples=80)
@given(
    pattern=st.text(alphabet="M-*", min_size=1, max_size=12),
    heads=st.integers(1, 9),
    kv=st.sampled_from(["bf16", "fp8"]),
    ssm=st.sampled_from(["fp32", "bf16"]),
    context=st.integers(1, 900),
    sequences=st.integers(1, 3),
    prefixes=st.booleans(),
)
def test_bytes_equal_a_plain_loop_over_layers_and_blocks(
    pattern: str, heads: int, kv: str, ssm: str, context: int, sequences: int, prefixes: bool
) -> None:
    shape = make_tiny_shape(hybrid_override_pattern=pattern, mamba_num_heads=2 * heads)
    workload = Workload(
        context_tokens=context,
        sequences=sequences,
        kv_dtype=kv,
        ssm_dtype=ssm,
        accounting="vllm",
        engine=Engine(prefix_caching=prefixes),
    )
    memory = memory_bytes(shape, workload)
    assert memory.kv_bytes + memory.ssm_bytes + memory.conv_bytes == oracle(shape, workload)
    assert memory.kv_bytes >= memory_bytes(shape, workload.changed(accounting="plain")).kv_bytes


@given(context=st.integers(1, 200_000), sequences=st.integers(1, 50), budget_mib=st.integers(18_000, 40_000))
def test_the_largest_context_and_sequences_are_the_last_that_fit(context: int, sequences: int, budget_mib: int) -> None:
    workload = PAGED.changed(context_tokens=context, sequences=sequences, engine=Engine(max_num_seqs=10_000))
    budget = budget_mib * 2**20
    report = fit(NANO_9B, workload, budget)
    for largest, field in ((report.max_context_tokens, "context_tokens"), (report.max_sequences, "sequences")):
        assert largest is not None
        if largest > 0:
            assert fit(NANO_9B, workload.changed(**{field: largest}), budget).fits
        assert not fit(NANO_9B, workload.changed(**{field: largest + 1}), budget).fits


def words_after(option: str, words: Sequence[str] | None) -> str:
    assert words is not None
    return list(words)[list(words).index(option) + 1]


def test_the_published_9b_is_tight_on_an_a10g_and_its_serve_line_asks_for_what_surely_fits() -> None:
    budget = usable_bytes(find_device("a10g").visible_bytes, utilization=0.92, reserved_gib=0)
    report = fit(NANO_9B, PAGED, budget)
    assert report.verdict == "tight"
    assert not report.fits
    assert report.num_cache_blocks is not None
    assert report.num_cache_blocks < 256  # vLLM's default number of sequences, with which it would not start
    words = serve_command("nano", PAGED, report, utilization=0.92)
    assert words_after("--max-num-seqs", words) == str(report.num_cache_blocks)
    served = int(words_after("--max-model-len", words))
    assert served == report.max_context_tokens
    assert served < 131072
    assert fit(NANO_9B, PAGED.changed(context_tokens=served), budget).fits
    # With fp8 keys and values it is sure, and the line asks for all of it.
    narrow = PAGED.changed(kv_dtype="fp8")
    assert fit(NANO_9B, narrow, budget).verdict == "fits"
    words = serve_command("nano", narrow, fit(NANO_9B, narrow, budget), utilization=0.92)
    assert words_after("--max-model-len", words) == "131072"
    assert words_after("--kv-cache-dtype", words) == "fp8"


def test_the_serve_line_keeps_to_the_configurations_own_context() -> None:
    report = fit(NANO_9B, PAGED, 80 * GIB)
    for longest, served in ((4096, "4096"), (None, "131072"), (262144, "131072")):
        words = serve_command("nano", PAGED, report, utilization=0.9, longest=longest)
        assert words_after("--max-model-len", words) == served
    boundless = fit(make_tiny_shape(hybrid_override_pattern="MM"), PAGED, 80 * GIB)
    assert boundless.max_context_tokens is None
    assert words_after("--max-model-len", serve_command("nano", PAGED, boundless, utilization=0.9)) == "131072"


@pytest.mark.parametrize(
    ("settings", "longest"),
    [
        (None, 4096),
        ({"rope_type": "default", "rope_theta": 1e4}, 4096),
        ({"rope_type": "llama3", "factor": 8.0}, 4096),
        ({"type": "yarn", "factor": 4.0}, 4096),
        ({"rope_type": "linear", "factor": 2.5}, 10240),
        ({"type": "dynamic", "factor": 3}, 12288),
    ],
)
def test_rotary_positions_lengthen_the_context_as_in_vllm(settings: dict[str, object] | None, longest: int) -> None:
    for key in ("rope_scaling", "rope_parameters"):
        assert longest_context({"max_position_embeddings": 4096, key: settings}) == longest
    assert longest_context({key: settings}) is None


def test_a_model_that_does_not_fit_has_no_serve_line() -> None:
    budget = usable_bytes(find_device("a10g").visible_bytes, utilization=0.92, reserved_gib=0)
    report = fit(NANO_12B, PAGED, budget)
    assert report.verdict == "does not fit"
    assert serve_command("nano", PAGED, report, utilization=0.92) is None


def test_more_sequences_than_the_engine_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="max_num_seqs must be at least the 300 sequences, got 256"):
        PAGED.changed(sequences=300)


def test_what_costs_nothing_has_no_limit_only_where_all_else_fits() -> None:
    shape = make_tiny_shape(hybrid_override_pattern="MM")
    for workload in (PAGED, PAGED.changed(accounting="plain")):
        assert fit(shape, workload, 10**11).max_context_tokens is None
        assert fit(shape, workload, 1000).max_context_tokens == 0


def test_a_precision_that_vllm_cannot_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="ssm_dtype must be one of fp32, bf16, fp16, got 'fp8'"):
        PAGED.changed(ssm_dtype="fp8")
    with pytest.raises(ValueError, match="kv_dtype must be one of fp32, bf16, fp16, fp8, got 'int8'"):
        PAGED.changed(kv_dtype="int8")


def test_shared_prefixes_are_asked_for_as_they_were_accounted_for() -> None:
    workload = PAGED.changed(engine=Engine(prefix_caching=True, max_num_batched_tokens=512), ssm_dtype="bf16")
    words = " ".join(serve_command("nano", workload, fit(NANO_9B, workload, 40 * GIB), utilization=0.9) or ())
    assert "--max-num-seqs 256 --gpu-memory-utilization 0.9 --max-num-batched-tokens 512" in words
    assert words.endswith("--mamba-ssm-cache-dtype bfloat16 --enable-prefix-caching")
    alone = serve_command("nano", ALONE, fit(NANO_9B, ALONE, 40 * GIB), utilization=0.9)
    assert (alone or [""])[-1] == "--no-enable-prefix-caching"


def test_a_block_size_of_another_platform_is_asked_for_as_it_was_accounted_for() -> None:
    workload = PAGED.changed(engine=Engine(block_size=128))
    report = fit(NANO_9B, workload, 40 * GIB)
    assert report.cache_blocks is not None
    assert report.cache_blocks.block_tokens == 1408
    assert words_after("--block-size", serve_command("nano", workload, report, utilization=0.9)) == "128"


def test_a_cache_in_fp32_is_that_of_a_model_in_fp32() -> None:
    with pytest.raises(
        ValueError, match="kv_dtype fp32 is vLLM's --dtype float32, so conv_dtype must be fp32, got bf16"
    ):
        PAGED.changed(kv_dtype="fp32")
    workload = PAGED.changed(kv_dtype="fp32", conv_dtype="fp32")
    words = serve_command("nano", workload, fit(NANO_9B, workload, 80 * GIB), utilization=0.9)
    assert words_after("--dtype", words) == "float32"
    workload = PAGED.changed(conv_dtype="fp32")
    words = serve_command("nano", workload, fit(NANO_9B, workload, 80 * GIB), utilization=0.9)
    assert words_after("--mamba-cache-dtype", words) == "float32"


@pytest.mark.parametrize(("context", "fits"), [(48, True), (49, False)])
def test_the_block_that_is_never_handed_out_is_counted(context: int, fits: bool) -> None:
    shape = make_tiny_shape(hybrid_override_pattern="*-*", mamba_num_heads=2)
    workload = Workload(context_tokens=context, accounting="vllm", workspace_gib=0)
    blocks = cache_blocks(shape.family, shape.counts, shape.sizes, workload)
    assert blocks is not None
    assert blocks.block_tokens == 16
    report = fit(shape, workload, 4 * blocks.pool_block_bytes, weights_bytes=0)
    assert (report.num_cache_blocks, report.max_context_tokens, report.fits) == (4, 48, fits)
    assert report.max_sequences == int(fits)


def test_a_given_workspace_replaces_the_estimate() -> None:
    report = fit(NANO_9B, PAGED.changed(workspace_gib=1), 30 * GIB)
    assert report.memory.workspace_bytes == report.workspace_low_bytes == GIB


def test_a_model_without_a_cache_has_no_cache_blocks() -> None:
    report = fit(make_tiny_shape(hybrid_override_pattern="--"), PAGED, 10**10)
    assert report.cache_blocks is None
    assert report.verdict == "fits"
