"""Published configurations, as golden shapes."""

from minitron.models.shape import HybridShape

PATTERN_12B = "M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-"


PATTERN_9B = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"


PATTERN_8B = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"


def published(pattern: str, hidden: int, ffn: int, nq: int, heads: int, head_dim: int) -> HybridShape:
    return HybridShape(
        hybrid_override_pattern=pattern,
        vocab_size=131072,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_attention_heads=nq,
        num_key_value_heads=8,
        head_dim=128,
        mamba_num_heads=heads,
        mamba_head_dim=head_dim,
        n_groups=8,
        ssm_state_size=128,
    )


NANO_12B = published(PATTERN_12B, 5120, 20480, 40, 128, 80)


NANO_9B = published(PATTERN_9B, 4480, 15680, 40, 128, 80)
