"""Our accounting of vLLM's cache against vLLM's own planner: random shapes, every number equal."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from minitron.dtypes import DTYPES
from minitron.estimate.serving import fit as fit_module
from minitron.estimate.serving import vllm_cache
from minitron.estimate.serving.fit import fit
from minitron.estimate.serving.workload import Engine, Workload
from minitron.models.shape import HybridShape
from tests.engines.planner_shapes import config_of, draw_shape
from tests.engines.run_vllm import NEEDS_VLLM, run_vllm

pytestmark = NEEDS_VLLM

SEED, NUM_CASES, LONGEST = 20260, 384, 2**20
# What vLLM takes where nothing is given, on GPUs and on CPUs.
DEFAULT_BLOCK_SIZE = {True: 16, False: 128}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A shape and what is served; what is None is left to vLLM."""

    shape: HybridShape
    context_tokens: int
    memory_bytes: int
    kv_dtype: str
    ssm_dtype: str
    prefix_caching: bool | None
    block_size: int | None
    cuda: bool
    max_num_batched_tokens: int

    @property
    def whole_dtype(self) -> str:
        """The model's number format, in which vLLM keeps what is not told otherwise."""
        return "fp32" if self.kv_dtype == "fp32" else "bf16"

    def request(self) -> dict[str, Any]:
        """What vLLM is asked."""
        return {
            "config": config_of(self.shape) | {"max_position_embeddings": LONGEST},
            "dtype": DTYPES[self.whole_dtype].torch,
            "kv_cache_dtype": "fp8" if self.kv_dtype == "fp8" else "auto",
            "ssm_dtype": DTYPES[self.ssm_dtype].torch,
            "prefix_caching": self.prefix_caching,
            "block_size": self.block_size,
            "cuda": self.cuda,
            "max_model_len": self.context_tokens,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "memory_bytes": self.memory_bytes,
        }

    def workload(self) -> Workload:
        """The same, as minitron has it."""
        changes: dict[str, Any] = {} if self.prefix_caching is None else {"prefix_caching": self.prefix_caching}
        return Workload(
            context_tokens=self.context_tokens,
            kv_dtype=self.kv_dtype,
            ssm_dtype=self.ssm_dtype,
            conv_dtype=self.whole_dtype,
            workspace_gib=0,
            accounting="vllm",
            engine=Engine(
                block_size=self.block_size or DEFAULT_BLOCK_SIZE[self.cuda],
                max_num_seqs=10**9,
                max_num_batched_tokens=self.max_num_batched_tokens,
                async_scheduling=self.cuda,
                **changes,
            ),
        )


def draw_case(rng: random.Random) -> Case:
    """A shape and a workload; the memory holds between nothing and some sequences."""
    shape = draw_shape(rng)
    token = 4 * shape.num_key_value_heads * shape.head_dim * shape.num_hidden_layers
    context = int(2 ** rng.uniform(0, 17))
    return Case(
        shape=shape,
        context_tokens=context,
        memory_bytes=int(token * (context + 2000) * 4 ** rng.uniform(-3, 2)),
        kv_dtype=rng.choice(["bf16", "fp8", "fp32"]),
        ssm_dtype=rng.choice(["fp32", "bf16"]),
        prefix_caching=rng.choice([None, True, False]),
        block_size=rng.choice([None, None, 32]),
        cuda=rng.random() < 0.7,
        max_num_batched_tokens=rng.choice([256, 1000, 2048, 8192]),
    )


def ours(case: Case) -> dict[str, Any]:
    """Our numbers, as vLLM names them."""
    report = fit(case.shape, case.workload(), case.memory_bytes, weights_bytes=0)
    blocks = report.cache_blocks
    assert blocks is not None
    assert report.num_cache_blocks is not None
    longest = LONGEST if report.max_context_tokens is None else min(LONGEST, report.max_context_tokens)
    return {
        "prefix_caching": case.workload().engine.prefix_caching,
        "groups": blocks.num_groups,
        "attention_block_tokens": blocks.block_tokens or None,
        "page_bytes": [blocks.page_bytes],
        "pool_block_bytes": blocks.pool_block_bytes,
        "num_blocks": report.num_cache_blocks,
        "blocks_per_sequence": blocks.blocks_per_sequence,
        "max_concurrency": report.num_cache_blocks / blocks.blocks_per_sequence,
        "max_context_tokens": longest,
        "max_sequences": report.max_sequences,
        "fits": report.fits,
    }


def vllms(answer: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's numbers."""
    assert "error" not in answer, answer["error"]
    return {
        **{name: answer[name] for name in ("prefix_caching", "groups", "page_bytes", "pool_block_bytes", "num_blocks")},
        "attention_block_tokens": next(
            (tokens for spec, tokens in answer["block_tokens"].items() if spec != "MambaSpec"), None
        ),
        "blocks_per_sequence": answer["blocks_per_sequence"],
        "max_concurrency": answer["max_concurrency"],
        "max_context_tokens": answer["max_context_tokens"],
        "max_sequences": answer["free_blocks"] // answer["blocks_per_sequence"],
        "fits": answer["refusal"] is None,
    }


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    rng = random.Random(SEED)
    return [draw_case(rng) for _ in range(NUM_CASES)]


@pytest.fixture(scope="module")
def answers(cases: Sequence[Case], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    request = [case.request() for case in cases]
    return [vllms(answer) for answer in run_vllm("vllm_planner.py", request, tmp_path_factory.mktemp("planner"))]


def differences(cases: Sequence[Case], answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each case in which a number differs."""
    found = []
    for case, theirs in zip(cases, answers, strict=True):
        mine = ours(case)
        differing = {name: (mine[name], theirs[name]) for name in theirs if mine[name] != theirs[name]}
        if differing:
            found.append(f"{case}: (ours, vLLM's) {differing}")
    return found


def test_every_number_is_that_of_vllms_planner(
    cases: Sequence[Case], answers: Sequence[Mapping[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert differences(cases, answers) == []
    fits = sum(answer["fits"] for answer in answers)
    hybrids = sum(answer["groups"] > 1 for answer in answers)
    assert min(fits, len(cases) - fits, hybrids) > 40
    with capsys.disabled():
        print(
            f"\nvLLM's planner: {len(cases)} shapes, {hybrids} with several groups, {fits} fit; all numbers are equal"
        )


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("STATES_WITH_PREFIXES", 3),
        ("EXPORTED_STATES", 0),
        ("STATES", 2),
        ("NULL_BLOCKS", 0),
        ("_group", lambda *kinds: min(filter(None, kinds))),
    ],
)
def test_a_wrong_accounting_is_noticed(
    cases: Sequence[Case],
    answers: Sequence[Mapping[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    wrong: object,
) -> None:
    for module in (vllm_cache, fit_module):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, wrong)
    assert len(differences(cases, answers)) > 10
