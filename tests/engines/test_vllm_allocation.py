"""What `minitron fit` says of pruned checkpoints against what vLLM on CPU allocates, and refuses, when it starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.dtypes import DTYPES
from minitron.estimate.devices import Device
from minitron.estimate.serving.fit import FitReport
from minitron.estimate.serving.model_fit import Memory, fit_model
from minitron.estimate.serving.workload import Engine, Workload
from minitron.units import GIB
from tests.engines.checkpoints import EVERYTHING, write_checkpoints
from tests.engines.run_vllm import NEEDS_VLLM, run_vllm
from tests.support.models import make_tiny_shape, write_tiny_checkpoint

pytestmark = NEEDS_VLLM


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A checkpoint and the memory that it is started in.

    Attributes:
        family: The checkpoint's family.
        cut: What was done to it.
        pool_blocks: Blocks of the pool that the memory holds; a part of one more is left over.
        dtype: Number format of the model and its cache, but for the Mamba state, which is fp32.
        prefix_caching: None leaves it to vLLM.
        beyond: Tokens beyond the largest context that fits.
    """

    family: str
    cut: str
    pool_blocks: int
    dtype: str = "fp32"
    prefix_caching: bool | None = None
    beyond: int = 0


# Its Mamba state is larger than the smallest block of its attention.
WIDE_STATE = "nemotron_h with a wide state"
STARTS = [
    Start(family=WIDE_STATE, cut="teacher", pool_blocks=21),
    Start(family="nemotron_h", cut=EVERYTHING, pool_blocks=12),
    Start(family="nemotron_h", cut="teacher", pool_blocks=9, prefix_caching=False),
    Start(family="nemotron_h", cut="attention heads", pool_blocks=15, dtype="bf16"),
    Start(family="llama", cut="attention heads", pool_blocks=6),
    Start(family="qwen3, tied", cut="width", pool_blocks=5),
    Start(family="nemotron_h", cut=EVERYTHING, pool_blocks=12, beyond=1),
    Start(family="llama", cut="attention heads", pool_blocks=6, beyond=1),
]


def our_fit(folder: Path, start: Start, context_tokens: int, memory_bytes: int) -> FitReport:
    """What minitron says of a checkpoint in the memory of its weights and `memory_bytes` for the cache."""
    shared = {} if start.prefix_caching is None else {"prefix_caching": start.prefix_caching}
    workload = Workload(
        context_tokens=context_tokens,
        accounting="vllm",
        kv_dtype=start.dtype,
        conv_dtype=start.dtype,
        workspace_gib=0,
        engine=Engine(max_num_seqs=4, block_size=128, **shared),
    )
    whole = open_checkpoint(folder).weights_bytes + memory_bytes
    device = Device(name="a CPU", visible_gib=whole / GIB, source="this test")
    return fit_model(folder, workload, Memory(device=device, utilization=1.0)).report


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    shape = make_tiny_shape(
        hidden_size=96,
        head_dim=32,
        num_key_value_heads=2,
        mamba_num_heads=12,
        mamba_head_dim=16,
        n_groups=3,
        ssm_state_size=128,
    )
    wide = write_tiny_checkpoint(tmp_path_factory.mktemp("wide") / "teacher", shape=shape)
    written = {
        name: write_checkpoints(name, tmp_path_factory.mktemp("started"))
        for name in {one.family for one in STARTS} - {WIDE_STATE}
    }
    return written | {WIDE_STATE: {"teacher": wide}}


def test_vllm_allocates_and_refuses_what_fit_says(
    folders: Mapping[str, Mapping[str, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request, reports = [], []
    for start in STARTS:
        folder = folders[start.family][start.cut]
        blocks = our_fit(folder, start, 1, 2**20).cache_blocks
        assert blocks is not None
        memory_bytes = start.pool_blocks * blocks.pool_block_bytes + blocks.pool_block_bytes // 3
        largest = our_fit(folder, start, 1, memory_bytes).max_context_tokens
        assert largest
        context_tokens = largest + start.beyond
        reports.append(our_fit(folder, start, context_tokens, memory_bytes))
        request.append(
            {
                "model": str(folder),
                "max_model_len": context_tokens,
                "memory_bytes": memory_bytes,
                "dtype": DTYPES[start.dtype].torch,
                "prefix_caching": start.prefix_caching,
            }
        )
    answers = run_vllm("vllm_allocation.py", request, tmp_path)
    lines = []
    for start, report, answer in zip(STARTS, reports, answers, strict=True):
        assert report.fits == (start.beyond == 0)
        what = f"{start.family}, {start.cut}, {report.num_cache_blocks} blocks"
        if report.fits:
            compare(report, answer, shared=start.prefix_caching is None)
            lines.append(f"{what}: {answer}")
        else:
            assert "To serve at least one request with the model's max seq len" in answer.get("error", "")
            lines.append(f"{what}: refused")
    with capsys.disabled():
        print("", *lines, sep="\n")


def compare(report: FitReport, answer: Mapping[str, Any], *, shared: bool) -> None:
    """Demands that vLLM holds what was said."""
    blocks = report.cache_blocks
    assert blocks is not None
    assert report.num_cache_blocks is not None
    assert answer == {
        "prefix_caching": shared,
        "block_tokens": blocks.block_tokens,
        "page_bytes": [blocks.page_bytes],
        "groups": blocks.num_groups,
        "num_blocks": report.num_cache_blocks,
        "max_concurrency": report.num_cache_blocks / blocks.blocks_per_sequence,
        "allocated_bytes": report.num_cache_blocks * blocks.pool_block_bytes,
    }
