"""Activations of training, estimated from a family's declarations.

Inputs and outputs of every matrix product of a block are kept for its backward pass, and two fp32 copies for each norm.
The CUDA kernels of Mamba, gated DeltaNet and attention are assumed; torch's fallbacks need several times as much.
"""

from minitron.estimate.training.setup import TrainingSetup
from minitron.models.axes import TensorSpec, dim_size
from minitron.models.families.token_mixers import attention_letters
from minitron.models.shape import HybridShape

HIDDEN = (("hidden_size",),)


def activation_bytes(shape: HybridShape, setup: TrainingSetup) -> int:
    """Bytes a token that the backward pass of all blocks needs, with the gradients inside one of them."""
    kinds = {kind: block_activation_bytes(shape, kind, setup) for kind, count in shape.counts.items() if count}
    largest = max(kinds.values())
    if setup.checkpointing:
        streams = 2 if setup.offloaded else shape.num_hidden_layers  # one arrives while another is in use
        return streams * shape.hidden_size * setup.stream_bytes + 2 * largest
    return sum(shape.counts[kind] * held for kind, held in kinds.items()) + largest


def block_activation_bytes(shape: HybridShape, kind: str, setup: TrainingSetup) -> int:
    """Bytes a token that the backward pass of one block of a kind needs."""
    specs = shape.family.tensors_of(kind, shape.sizes)
    norms = sum(spec.dims == (HIDDEN,) for spec in specs)
    return (
        setup.stream_bytes * shape.hidden_size
        + norms * 2 * 4 * shape.hidden_size
        + setup.product_bytes * sum(_product_numbers(spec, shape) for spec in specs)
        + setup.product_bytes * _gathered_numbers(shape, kind, setup)
    )


def _gathered_numbers(shape: HybridShape, kind: str, setup: TrainingSetup) -> int:
    # Keys and values of whole sequences, as they are gathered and once more for every query head.
    if setup.context_parallel == 1 or kind not in attention_letters(shape.model_type):
        return 0
    heads = shape.num_key_value_heads + shape.num_attention_heads
    return setup.context_parallel * 2 * heads * shape.head_dim


def _product_numbers(spec: TensorSpec, shape: HybridShape) -> int:
    # A matrix reads its columns and writes its rows; a convolution writes its rows.
    if len(spec.dims) < 2:
        return 0
    numbers = dim_size(spec.dims[0], shape.sizes) + (dim_size(spec.dims[1], shape.sizes) if len(spec.dims) == 2 else 0)
    if spec.stacked is None:
        return numbers
    used = shape.family.axes[spec.stacked].used
    return numbers * shape.sizes[spec.stacked if used is None else used]
