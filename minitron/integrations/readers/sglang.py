"""What SGLang reads. Its nemotron_h has a configuration class of its own; llama and qwen3 go through transformers'."""

from collections.abc import Iterator

from minitron.integrations.readers.families import through_transformers
from minitron.integrations.readers.reader import Config, Family, Read, Reader, Refusal, defaults
from minitron.integrations.readers.rules import OLDER_KINDS, kinds_known, listed, power_of_two
from minitron.integrations.readers.transformers import EXPERT_DEFAULTS, NEMOTRON_H_DEFAULTS, dense_families
from minitron.models.shape import HybridShape

VERSION = "0.5.23"
CONFIG = f"sglang {VERSION}, srt/configs/nemotron_h.py"


def no_other_list(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
    """Blocks must not be listed as `layer_types` where some are MLPs: transformers' base class knows no such kind."""
    if config.get("layer_types") is not None and shape.count("-"):
        source = f"sglang {VERSION} with transformers 5.19.0, configuration_utils.py"
        yield listed("layer_types", shape, source=source, rule="be left out where there are MLP blocks")


CHUNK = power_of_two(
    "mamba_chunk_size",
    "chunk_size",
    default=256,
    source=f"sglang {VERSION}, kernels/ops/mamba/triton_ops/ssd_combined.py",
)
NEMOTRON_H = Family(
    source=CONFIG,
    architectures=("NemotronHForCausalLM",),
    reads=(
        *defaults(**NEMOTRON_H_DEFAULTS, n_routed_experts=8, **EXPERT_DEFAULTS),
        Read(size="conv_kernel", keys=("conv_kernel", "mamba_d_conv"), default=4),
        # The cache is made with n_groups, which has no default, and the mixer with mamba_n_groups.
        Read(size="n_groups", keys=("n_groups",)),
        Read(size="n_groups", keys=("mamba_n_groups",), default=8),
    ),
    rules=(
        kinds_known({kind: (name,) for kind, name in OLDER_KINDS.items()}, keys=("layers_block_type",)),
        no_other_list,
        CHUNK,
    ),
)

DENSE = dense_families(llama=f"sglang {VERSION}, srt/models/llama.py", qwen3=f"sglang {VERSION}, srt/models/qwen3.py")
MODELS = f"sglang {VERSION}, srt/models"
FURTHER = through_transformers(
    {
        "mistral": f"{MODELS}/mistral.py, llama.py",
        "qwen2": f"{MODELS}/qwen2.py",
        "gemma3_text": f"{MODELS}/gemma3_causal.py",
        "granitemoehybrid": f"{MODELS}/granitemoehybrid.py",
        "qwen3_moe": f"{MODELS}/qwen3_moe.py",
        "qwen3_5_text": f"{MODELS}/qwen3_5_text.py",
        "qwen3_5_moe_text": f"{MODELS}/qwen3_5_text.py",
    },
    further={"granitemoehybrid": (CHUNK,)},
    heads_by_hidden=("granitemoehybrid",),
)
SGLANG = Reader(
    name="sglang",
    version=VERSION,
    families={"nemotron_h": NEMOTRON_H, **DENSE, **FURTHER},
    notes=("which quantized weights it takes is not checked",),
)
