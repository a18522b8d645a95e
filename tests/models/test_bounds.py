"""Sizes that no model has are refused before anything walks over them or counts with them."""

import time
from typing import Any

import pytest

from minitron.errors import ShapeError
from minitron.models.bounds import LARGEST_SIZE, MOST_BLOCKS, MOST_PARAMS
from minitron.models.config import shape_from_config
from minitron.models.shape import HybridShape
from tests.support.models import config_json, make_config, make_dense_shape, make_moe_shape, make_tiny_shape


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "intermediate_size", "ssm_state_size", "head_dim"])
@pytest.mark.parametrize("size", [LARGEST_SIZE + 1, 2**63, 10**400])
def test_a_size_beyond_the_largest_is_refused_in_a_short_line(name: str, size: int) -> None:
    with pytest.raises(ShapeError, match=f"{name} must be at most 67,108,864") as caught:
        make_tiny_shape(**{name: size})
    assert len(str(caught.value)) <= 500


def test_more_parameters_than_can_be_counted_are_refused() -> None:
    with pytest.raises(ShapeError, match="a model must have at most 9,007,199,254,740,992 parameters"):
        make_tiny_shape(vocab_size=LARGEST_SIZE, hidden_size=LARGEST_SIZE)
    assert MOST_PARAMS * 8 < 2**63


@pytest.mark.parametrize("blocks", [MOST_BLOCKS + 1, 2**40, 10**400])
def test_more_blocks_than_any_model_has_are_refused_at_once(blocks: int) -> None:
    config: dict[str, Any] = config_json(make_config(make_dense_shape("llama"))) | {"num_hidden_layers": blocks}
    started = time.process_time()
    with pytest.raises(ShapeError, match="a model must have at most 4,096 blocks"):
        shape_from_config(config)
    with pytest.raises(ShapeError, match="a model must have at most 4,096 blocks"):
        make_tiny_shape(hybrid_override_pattern="M" * (MOST_BLOCKS + 1))
    assert time.process_time() - started < 1


def test_more_experts_than_can_be_looked_at_are_refused() -> None:
    with pytest.raises(ShapeError, match="n_routed_experts must be at most 65,536"):
        make_moe_shape(n_routed_experts=65_537, n_group=1, topk_group=1)
    with pytest.raises(ShapeError, match="n_routed_experts of all blocks must be at most 1,048,576"):
        make_moe_shape(hybrid_override_pattern="E" * 17, n_routed_experts=65_536, n_group=1, topk_group=1)


def test_the_largest_models_that_are_published_are_far_inside() -> None:
    shape = HybridShape(
        model_type="llama",
        hybrid_override_pattern="T" * 126,
        vocab_size=128_256,
        hidden_size=16_384,
        intermediate_size=53_248,
        num_attention_heads=128,
        num_key_value_heads=8,
        head_dim=128,
    )
    assert shape.params * 1_000 < MOST_PARAMS
