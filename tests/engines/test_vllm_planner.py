"""Our accounting of vLLM's cache against vLLM's own planner: random shapes, every number equal."""

import json
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
from minitron.models.config import config_for_shape
from minitron.models.shape import HybridShape
from tests.engines.run_vllm import NEEDS_VLLM, run_vllm
from tests.support.models import make_config

pytestmark = NEEDS_VLLM

SEED, NUM_CASES, LONGEST = 20260, 256, 2**20
ARCHITECTURES = {"nemotron_h": "NemotronHForCausalLM", "llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
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

    @property
    def whole_dtype(self) -> str:
        """The model's number format, in which vLLM keeps what is not told otherwise."""
        return "fp32" if self.kv_dtype == "fp32" else "bf16"

    def request(self) -> dict[str, Any]:
        """What vLLM is asked."""
        config = config_for_shape(json.loads(make_config(self.shape).to_json_string(use_diff=False)), self.shape)
        config |= {"architectures": [ARCHITECTURES[self.shape.model_type]], "max_position_embeddings": LONGEST}
        return {
            "config": config,
            "dtype": DTYPES[self.whole_dtype].torch,
            "kv_cache_dtype": "fp8" if self.kv_dtype == "fp8" else "auto",
            "ssm_dtype": DTYPES[self.ssm_dtype].torch,
            "prefix_caching": self.prefix_caching,
            "block_size": self.block_size,
            "cuda": self.cuda,
            "max_model_len": self.context_tokens,
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
            engine=Engine(block_size=self.block_size or DEFAULT_BLOCK_SIZE[self.cuda], max_num_seqs=10**9, **changes),
        )


def draw_shape(rng: random.Random) -> HybridShape:
    """A hybrid, a hybrid's family with attention or Mamba alone, or a dense model; no two dims are equal."""
    kind = rng.choice(["hybrid", "hybrid", "hybrid", "attention", "mamba", "llama", "qwen3"])
    heads, per_kv = rng.sample(range(2, 9), 2)
    attention = {"num_key_value_heads": heads, "num_attention_heads": heads * per_kv}
    attention["head_dim"] = rng.choice([32, 64, 80, 96, 112, 128, 160, 192])
    hidden = attention["num_attention_heads"] * rng.randint(9, 13)  # llama's must be a multiple of its heads
    rest = {"vocab_size": 271, "hidden_size": hidden, "intermediate_size": rng.randint(801, 999)}
    if kind in ARCHITECTURES:
        pattern = "T" * rng.randint(1, 9)
        return HybridShape(hybrid_override_pattern=pattern, model_type=kind, **attention, **rest)
    letters = {"hybrid": "MMM**-", "attention": "*-", "mamba": "M-"}[kind]
    needed = {"hybrid": "M*", "attention": "*", "mamba": "M"}[kind]
    pattern = [*needed, *rng.choices(letters, k=rng.randint(1, 30))]
    rng.shuffle(pattern)
    groups = rng.choice([2, 3, 5])
    mamba = {
        "n_groups": groups,
        "mamba_num_heads": groups * rng.randint(2, 30),
        "mamba_head_dim": rng.choice([17, 24, 33, 65, 130]),
        "ssm_state_size": rng.choice([16, 40, 72, 129]),
        "conv_kernel": rng.choice([3, 4, 5]),
    }
    dims = attention | rest | mamba
    if len(set(dims.values())) < len(dims):
        return draw_shape(rng)
    return HybridShape(hybrid_override_pattern="".join(pattern), model_type="nemotron_h", **dims)


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
        "attention_block_tokens": answer["block_tokens"].get("FullAttentionSpec"),
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
        ("STATES_WITH_PREFIXES", 2),
        ("STATES", 2),
        ("NULL_BLOCKS", 0),
        ("_group", lambda attention, mamba: min(attention, mamba) or max(attention, mamba)),
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
