"""Bytes of weights in every precision against a count of the tensors one by one."""

import pytest

from minitron.estimate.precision import WEIGHT_FORMATS
from minitron.estimate.serving.memory import block_bytes, memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.models.axes import tensor_shape
from minitron.models.shape import HybridShape
from tests.support.published import NANO_9B


def count_one_by_one(shape: HybridShape, dtype: str) -> int:
    bits = 0
    for name, spec in shape.tensors().items():
        dims = tensor_shape(spec, shape.sizes)
        numel = 1
        for dim in dims:
            numel *= dim
        matrix = name.endswith("proj.weight")
        if dtype in ("fp32", "bf16", "fp16"):
            bits += numel * (32 if dtype == "fp32" else 16)
        elif not matrix:
            bits += numel * 16
        elif dtype == "fp8":
            bits += numel * 8 + 32 + 32
        elif dtype in ("int8", "w8a8"):
            bits += numel * 8 + dims[0] * 32 + (32 if dtype == "int8" else 0)
        elif dtype == "w4a16":
            # 15680 = 245 * 64 columns of the 9B's down projections are the fewest halvings of a group of 128.
            bits += numel * 4 + dims[0] * -(-dims[1] // (64 if shape is NANO_9B else 32)) * 16 + 2 * 64
        elif dtype == "nvfp4":
            bits += numel * 4 + dims[0] * -(-dims[1] // 16) * 8 + 32 + 32
        else:
            runs = sum(1 for _ in range(0, dims[1], 128))
            bits += numel * 4 + dims[0] * runs * 32
            if not name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):  # these share the norm's scales
                bits += dims[1] * 16
    return bits // 8


@pytest.mark.parametrize("dtype", WEIGHT_FORMATS)
def test_bytes_of_weights_equal_a_count_tensor_by_tensor(tiny_shape: HybridShape, dtype: str) -> None:
    for shape in (tiny_shape, NANO_9B):
        workload = Workload(context_tokens=1, weights_dtype=dtype)
        assert memory_bytes(shape, workload).weights_bytes == count_one_by_one(shape, dtype)


def test_blocks_and_what_lies_outside_them_make_the_whole(tiny_shape: HybridShape) -> None:
    workload = Workload(context_tokens=13, sequences=3)
    total, blocks = memory_bytes(tiny_shape, workload), block_bytes(tiny_shape, workload)
    outside = 2 * (2 * tiny_shape.vocab_size * tiny_shape.hidden_size + tiny_shape.hidden_size)
    for part in ("weights_bytes", "kv_bytes", "ssm_bytes", "conv_bytes"):
        whole = sum(tiny_shape.count(kind) * getattr(block, part) for kind, block in blocks.items())
        assert whole + (outside if part == "weights_bytes" else 0) == getattr(total, part)


def test_a_workload_whose_bits_no_longer_fit_64_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="context_tokens times sequences must be at most"):
        Workload(context_tokens=10**9, sequences=10**6)
