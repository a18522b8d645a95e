"""What SGLang reads. Its nemotron_h has a configuration class of its own; llama and qwen3 go through transformers'."""

from collections.abc import Iterator

from minitron.integrations.readers.reader import Config, Family, Read, Reader, Refusal, defaults
from minitron.integrations.readers.rules import OLDER_KINDS, kinds_known, power_of_two
from minitron.integrations.readers.transformers import LLAMA_READS, QWEN3_READS
from minitron.models.shape import HybridShape

VERSION = "0.5.23"
CONFIG = f"sglang {VERSION}, srt/configs/nemotron_h.py"


def no_other_list(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
    """Blocks must not be listed as `layer_types` where some are MLPs: transformers' base class knows no such kind."""
    if config.get("layer_types") is not None and shape.count("-"):
        yield Refusal(
            key="layer_types",
            rule="be left out where there are MLP blocks",
            found="got a list",
            mend=f'write "hybrid_override_pattern": "{shape.hybrid_override_pattern}" in its place',
            source=f"sglang {VERSION} with transformers 5.19.0, configuration_utils.py",
        )


NEMOTRON_H = Family(
    source=CONFIG,
    architectures=("NemotronHForCausalLM",),
    reads=(
        *defaults(
            vocab_size=131072,
            hidden_size=4096,
            intermediate_size=21504,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            ssm_state_size=128,
            mamba_num_heads=128,
            mamba_head_dim=64,
            n_routed_experts=8,
            num_experts_per_tok=2,
            n_group=1,
            topk_group=1,
            moe_intermediate_size=7688,
            moe_shared_expert_intermediate_size=7688,
        ),
        Read(size="conv_kernel", keys=("conv_kernel", "mamba_d_conv"), default=4),
        # The cache is made with n_groups, which has no default, and the mixer with mamba_n_groups.
        Read(size="n_groups", keys=("n_groups",)),
        Read(size="n_groups", keys=("mamba_n_groups",), default=8),
    ),
    rules=(
        kinds_known({kind: (name,) for kind, name in OLDER_KINDS.items()}, keys=("layers_block_type",)),
        no_other_list,
        power_of_two(
            "mamba_chunk_size",
            "chunk_size",
            default=256,
            source=f"sglang {VERSION}, kernels/ops/mamba/triton_ops/ssd_combined.py",
        ),
    ),
)

SGLANG = Reader(
    name="sglang",
    version=VERSION,
    families={
        "nemotron_h": NEMOTRON_H,
        "llama": Family(
            source=f"sglang {VERSION}, srt/models/llama.py", architectures=("LlamaForCausalLM",), reads=LLAMA_READS
        ),
        "qwen3": Family(
            source=f"sglang {VERSION}, srt/models/qwen3.py", architectures=("Qwen3ForCausalLM",), reads=QWEN3_READS
        ),
    },
    notes=("which quantized weights it takes is not checked",),
)
