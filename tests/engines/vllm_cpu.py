"""Kinds of CPU that vLLM tells apart, which of its kernels for quantized weights each runs, and how to act as one."""

import os
from collections.abc import Mapping
from types import MappingProxyType

import torch

# Instructions as torch names them. Without AVX-512 vLLM loads `_C_AVX2`, with it `_C_AVX512` or `_C`; layer by layer it
# asks for AMX, oneDNN for VNNI. A CPU with AVX-512 and without VNNI is counted as one without either.
NEEDS: Mapping[str, tuple[str, ...]] = {
    "avx2": (),
    "avx512": ("avx512_f", "avx512_vnni"),
    "amx": ("avx512_f", "avx512_vnni", "avx512_bf16", "amx_tile"),
}
# The product with weights of each format. ModelOpt's nvfp4 has none for CPUs.
KERNELS: Mapping[str, Mapping[str, str]] = {
    "avx2": {"w8a8": "onednn_scaled_mm"},
    "avx512": {"w8a8": "onednn_scaled_mm", "w4a16": "cpu_gemm_wna16"},
    "amx": {"w8a8": "int8_scaled_mm_with_quant", "w4a16": "int4_scaled_mm_cpu", "fp8": "fp8_scaled_mm_cpu"},
}
LIMITS = {
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
}


def kinds_of_cpu(capabilities: Mapping[str, object]) -> tuple[str, ...]:
    """The kinds that a CPU with these capabilities, as `torch.cpu.get_capabilities` gives them, is or can act as."""
    return tuple(kind for kind, needs in NEEDS.items() if all(capabilities.get(need) for need in needs))


def act_as(kind: str) -> None:
    """Hides from torch, oneDNN and vLLM what that kind of CPU lacks, in this process; before vLLM is imported."""
    os.environ |= LIMITS.get(kind, {})
    capabilities = dict(torch.cpu.get_capabilities())
    lacks = (name for name in capabilities if name.startswith(("avx512", "avx10", "avx_vnni", "amx")))
    seen = MappingProxyType(capabilities | {name: False for name in lacks if name not in NEEDS[kind]})
    torch.cpu.get_capabilities = lambda: seen
    # Seeing AMX for itself, torch would give fp8 products to an oneDNN that has none for lesser CPUs.
    torch.backends.mkldnn.set_flags("amx_tile" in NEEDS[kind])
