"""What vLLM reads: through transformers' configuration classes; 0.11 through the one beside the checkpoint."""

from collections.abc import Iterator

from minitron.integrations.readers.families import through_transformers
from minitron.integrations.readers.reader import Config, Family, Read, Reader, Refusal, defaults
from minitron.integrations.readers.rules import kinds_known, listed, power_of_two, quantizations, to_write
from minitron.integrations.readers.transformers import (
    EVERY_NAME,
    LISTS,
    NEMOTRON_H_DEFAULTS,
    NEMOTRON_H_READS,
    dense_families,
)
from minitron.models.shape import HybridShape

VERSION = "0.33.0"
# What vLLM has kernels for, of ModelOpt's algorithms and of the formats of compressed-tensors that minitron writes.
QUANTIZATION = quantizations(
    {
        "modelopt": (
            "FP8",
            "FP8_PER_CHANNEL_PER_TOKEN",
            "FP8_PB_WO",
            "NVFP4",
            "W4A16_NVFP4",
            "MXFP8",
            "MIXED_PRECISION",
        ),
        "compressed-tensors": ("int-quantized", "pack-quantized"),
    },
    mends={
        "W8A8_SQ_PER_CHANNEL": "quantize with --format w8a8",
        "W4A16_AWQ": "quantize with --format w4a16",
    },
    source=f"vllm {VERSION}, model_executor/layers/quantization/modelopt.py",
)


CHUNK = power_of_two(
    "mamba_chunk_size",
    "chunk_size",
    default=128,
    source=f"vllm {VERSION}, model_executor/layers/mamba/ops/ssd_combined.py",
)
MODELS = f"vllm {VERSION}, model_executor/models"
REGISTRY = f"vllm {VERSION}, model_executor/models/registry.py"

VLLM = Reader(
    name="vllm",
    version=VERSION,
    families={
        "nemotron_h": Family(
            source=f"vllm {VERSION} with transformers 5.16.1 to 5.20.2, models/nemotron_h/configuration_nemotron_h.py",
            architectures=("NemotronHForCausalLM",),
            reads=NEMOTRON_H_READS,
            rules=(kinds_known(EVERY_NAME, keys=LISTS), CHUNK, QUANTIZATION),
            block_widths=True,
        ),
        **dense_families(llama=REGISTRY, qwen3=REGISTRY, rules=(QUANTIZATION,)),
        **through_transformers(
            {
                "mistral": f"{MODELS}/mistral.py, llama.py",
                "qwen2": f"{MODELS}/qwen2.py",
                "smollm3": f"{MODELS}/transformers/",
                "gemma3_text": f"{MODELS}/gemma3.py",
                "granitemoehybrid": f"{MODELS}/granitemoehybrid.py",
                "qwen3_moe": f"{MODELS}/qwen3_moe.py",
                "qwen3_5_text": f"{MODELS}/qwen3_5.py",
                "qwen3_5_moe_text": f"{MODELS}/qwen3_5.py",
            },
            rules=(QUANTIZATION,),
            further={"granitemoehybrid": (CHUNK,)},
            heads_by_hidden=("qwen2", "granitemoehybrid"),
        ),
    },
)


def without_a_list(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
    """The list of blocks must be left out: it is a property of that class, which cannot be set."""
    if "layers_block_type" in config:
        yield listed("layers_block_type", shape, source=family.source)
    if config.get("hybrid_override_pattern") is None or config.get("num_hidden_layers") is None:
        yield Refusal(
            key="hybrid_override_pattern",
            rule="be given with num_hidden_layers",
            found="got only one of them" if "hybrid_override_pattern" in config else "got none",
            mend=f"{to_write('hybrid_override_pattern', shape.hybrid_override_pattern)}, "
            f'"num_hidden_layers": {shape.num_hidden_layers}',
            source=family.source,
        )


VLLM_0_11 = Reader(
    name="vllm@0.11",
    version="0.11.0",
    families={
        "nemotron_h": Family(
            source="vllm 0.11.0, transformers_utils/configs/nemotron_h.py",
            architectures=("NemotronHForCausalLM",),
            reads=(
                *defaults(**NEMOTRON_H_DEFAULTS),
                Read(size="n_groups", keys=("n_groups", "mamba_n_groups"), default=8),
                Read(size="conv_kernel", keys=("conv_kernel", "mamba_d_conv"), default=4),
            ),
            needs=("auto_map",),
            rules=(without_a_list, CHUNK),
        ),
    },
    notes=("it loads the configuration class beside the checkpoint, which is taken for a copy of its own",),
)
