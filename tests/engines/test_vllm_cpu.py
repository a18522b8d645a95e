"""What a CPU is to vLLM by its instructions, and that a CPU can act as a lesser one."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.vllm_cpu import kinds_of_cpu

PROGRAM = "import torch, vllm_cpu; vllm_cpu.act_as({!r}); print(*vllm_cpu.kinds_of_cpu(torch.cpu.get_capabilities()))"
AVX512 = ("avx2", "avx512_f")
CPUS = {
    "AMD EPYC Rome": (("avx2",), ("avx2",)),
    "Intel Skylake-X, without VNNI": (AVX512, ("avx2",)),
    "Intel Alder Lake, with VNNI of 256 bits": (("avx2", "avx_vnni"), ("avx2",)),
    "Intel Ice Lake": ((*AVX512, "avx512_vnni"), ("avx2", "avx512")),
    "AMD EPYC Genoa": ((*AVX512, "avx512_vnni", "avx512_bf16"), ("avx2", "avx512")),
    "Intel Sapphire Rapids": ((*AVX512, "avx512_vnni", "avx512_bf16", "amx_tile"), ("avx2", "avx512", "amx")),
}


@pytest.mark.parametrize("name", CPUS)
def test_a_cpu_is_every_kind_whose_instructions_it_has(name: str) -> None:
    instructions, kinds = CPUS[name]
    assert kinds_of_cpu(dict.fromkeys(instructions, True) | {"amx_fp16": False}) == kinds


def test_a_cpu_that_acts_as_one_without_avx_512_shows_none() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format("avx2")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    assert done.stdout.split() == ["avx2"]
