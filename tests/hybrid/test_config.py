import pytest

from minitron.hybrid.config import config_for_shape, shape_from_config
from minitron.hybrid.shape import HybridShape
from tests.conftest import make_tiny_shape


def config_of(shape: HybridShape) -> dict[str, object]:
    return {
        "model_type": "nemotron_h",
        "hybrid_override_pattern": shape.hybrid_override_pattern,
        **shape.config_sizes,
    }


def test_a_shape_survives_the_config_both_ways(tiny_shape: HybridShape) -> None:
    assert shape_from_config(config_for_shape(config_of(tiny_shape), tiny_shape)) == tiny_shape


@pytest.mark.parametrize(
    ("canonical", "spelling"),
    [
        ("ssm_state_size", "mamba_state_dim"),
        ("n_groups", "mamba_num_groups"),
        ("n_groups", "mamba_n_groups"),
        ("head_dim", "attention_head_dim"),
        ("conv_kernel", "mamba_d_conv"),
    ],
)
def test_every_published_spelling_is_read_and_kept(canonical: str, spelling: str) -> None:
    shape = make_tiny_shape()
    config = config_of(shape)
    config[spelling] = config.pop(canonical)
    assert shape_from_config(config) == shape
    written = config_for_shape(config, shape)
    assert written[spelling] == written[canonical] == shape.sizes[canonical]


def test_spellings_that_disagree_are_refused(tiny_shape: HybridShape) -> None:
    config = config_of(tiny_shape) | {"mamba_num_groups": 4}
    with pytest.raises(ValueError, match="spellings of n_groups .* must agree, got n_groups=2, mamba_num_groups=4"):
        shape_from_config(config)


def test_both_block_spellings_are_written_for_old_and_new_readers(tiny_shape: HybridShape) -> None:
    smaller = tiny_shape.resized(layers=[0, 1, 2])
    written = config_for_shape(config_of(tiny_shape), smaller)
    assert written["layers_block_type"] == ["linear_attention", "mlp", "full_attention"]
    assert written["hybrid_override_pattern"] == "M-*"
    assert written["num_hidden_layers"] == 3


def test_block_spellings_that_disagree_are_refused(tiny_shape: HybridShape) -> None:
    config = config_of(tiny_shape) | {"layers_block_type": ["mamba", "mlp"]}
    with pytest.raises(ValueError, match="must agree, got M- and "):
        shape_from_config(config)


def test_another_family_is_refused() -> None:
    with pytest.raises(ValueError, match="model_type must be one of nemotron_h, llama, qwen3, got 'mamba'"):
        shape_from_config({"model_type": "mamba"})
