"""What TensorRT-LLM's PyTorch backend reads, by way of transformers' configuration classes."""

from minitron.integrations.readers.reader import Family, Reader
from minitron.integrations.readers.rules import power_of_two
from minitron.integrations.readers.transformers import NEMOTRON_H_READS, dense_families

REPOSITORY = "NVIDIA/TensorRT-LLM"

TENSORRT_LLM = Reader(
    name="tensorrt-llm",
    version="main of 2026-11",
    families={
        "nemotron_h": Family(
            source=f"{REPOSITORY} 00620eb, _torch/models/modeling_nemotron_h.py",
            architectures=("NemotronHForCausalLM",),
            reads=NEMOTRON_H_READS,
            rules=(
                power_of_two(
                    "chunk_size", default=128, source=f"{REPOSITORY} 0975949, _torch/modules/mamba/ssd_combined.py"
                ),
            ),
        ),
        **dense_families(
            llama=f"{REPOSITORY} 012cf90, _torch/models/modeling_llama.py",
            qwen3=f"{REPOSITORY} 010bb95, _torch/models/modeling_qwen3.py",
        ),
    },
    notes=(
        "which names of layers_block_type it takes depends on its transformers and is not checked; the older ones are "
        "taken by all",
        "which quantized weights it takes is not checked",
    ),
)
