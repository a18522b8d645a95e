"""What vLLM's builds for CPUs lack or compute wrongly, in torch; from config.json to loading, all is vLLM's own.

8-bit integers: without VNNI oneDNN's product saturates at 16 bits where weights are above 63. 4-bit integers: the
kernel is in the builds for AVX-512 alone, and computes in 16 bits. fp8: rounding to it is a kernel of CUDA. nvfp4: vLLM
has a kernel in torch, which it does not offer CPUs. ModelOpt's formats are refused in fp32, in which only the order of
sums differs.
"""

from types import SimpleNamespace
from typing import Any

import torch
from vllm import _custom_ops
from vllm.model_executor.kernels.linear import _POSSIBLE_NVFP4_KERNELS
from vllm.model_executor.kernels.linear.nvfp4.emulation import EmulationNvFp4LinearKernel
from vllm.model_executor.layers.quantization.modelopt import ModelOptFp8Config, ModelOptNvFp4Config
from vllm.model_executor.layers.quantization.utils.quant_utils import unpack_quantized_values_into_int32
from vllm.platforms.interface import PlatformEnum
from vllm.scalar_type import scalar_types


def put_all_in_torch() -> None:
    """Puts all of it in its place; models are then served in fp32."""
    _custom_ops.create_onednn_scaled_mm = int8_weight
    _custom_ops.onednn_scaled_mm = int8_product
    _custom_ops.cpu_gemm_wna16 = int4_product
    put_fp8_rounding_in_torch()
    _POSSIBLE_NVFP4_KERNELS[PlatformEnum.CPU] = [EmulationNvFp4LinearKernel]
    for config in (ModelOptFp8Config, ModelOptNvFp4Config):
        config.get_supported_act_dtypes = lambda _: [torch.float32]


def put_fp8_rounding_in_torch() -> None:
    """Puts the rounding to fp8 alone in its place, of weights at loading and of activations."""
    _custom_ops.scaled_fp8_quant = as_fp8


def int8_weight(weight: torch.Tensor, scale: torch.Tensor, *_: Any) -> SimpleNamespace:
    """A weight [columns, rows] with a scale a row, kept for the product."""
    return SimpleNamespace(weight=weight, scale=scale, n=weight.shape[1])


def int8_product(
    kept: SimpleNamespace, codes: torch.Tensor, output: torch.Tensor, scale: torch.Tensor, *_: Any
) -> None:
    """The product of two matrices of integers, exact, times the scales of tokens and rows."""
    product = codes.double() @ kept.weight.double()
    output.copy_(product * scale.double() * kept.scale.double().reshape(1, -1))


def int4_product(input: torch.Tensor, q_weight: torch.Tensor, scales: torch.Tensor, **_: Any) -> torch.Tensor:
    """The product with a 4-bit weight as `CPUWNA16LinearKernel` keeps it: 16 rows a block, two words a column."""
    blocks, columns = len(q_weight), q_weight.shape[1] // 2
    words = q_weight.view(blocks, columns, 2).permute(1, 0, 2).reshape(columns, -1)
    codes = unpack_quantized_values_into_int32(words, scalar_types.uint4b8, 1) - 8
    return input @ (codes * scales.repeat_interleave(columns // len(scales), dim=0))


def as_fp8(input: torch.Tensor, scale: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers divided by a given scale, in fp8."""
    return (input.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale
