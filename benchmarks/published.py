"""The published shapes that several benchmarks take their dims from."""

from dataclasses import replace

from minitron.models.shape import HybridShape

NANO_12B = HybridShape(
    hybrid_override_pattern="M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-",
    vocab_size=131072,
    hidden_size=5120,
    intermediate_size=20480,
    num_attention_heads=40,
    num_key_value_heads=8,
    head_dim=128,
    mamba_num_heads=128,
    mamba_head_dim=80,
    n_groups=8,
    ssm_state_size=128,
)

NANO_9B = replace(
    NANO_12B,
    hybrid_override_pattern="M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
    hidden_size=4480,
    intermediate_size=15680,
)
