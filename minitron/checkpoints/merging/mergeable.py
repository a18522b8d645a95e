"""Which checkpoints can be merged, and with which weights: every refusal, before a tensor is read."""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.headers import StoredTensor
from minitron.checkpoints.vocabulary import require_one_vocabulary, tokens_beyond
from minitron.dtypes import FLOAT_VIEWS, INTEGER_VIEWS
from minitron.errors import CheckpointError

logger = logging.getLogger(__name__)

# safetensors dtype -> how its bytes are viewed, of integers.
WEIGHT_TOLERANCE = 1e-6
# Of a configuration, what does not change what the model computes.
INDIFFERENT_KEYS = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "vocab_size"}


def interpolation_weights(weights: Sequence[float], count: int) -> list[float]:
    """Weights of `count` checkpoints, divided by their sum, so that it is 1 in all of its digits.

    They need not be positive: 1.5 and -0.5 go beyond the first one, away from the second.

    Raises:
        CheckpointError: There is not one for each, one is not finite, or they do not sum to 1 within 1e-6.

    >>> interpolation_weights([0.25, 0.75], 2)
    [0.25, 0.75]
    """
    if len(weights) != count:
        raise CheckpointError(f"weights must be one for each of the {count} checkpoints, got {len(weights)}")
    if not all(math.isfinite(weight) for weight in weights):
        raise CheckpointError(f"weights must be finite numbers, got {', '.join(map(str, weights))}")
    total = math.fsum(weights)
    if abs(total - 1) > WEIGHT_TOLERANCE:
        raise CheckpointError(
            f"weights must sum to 1 within {WEIGHT_TOLERANCE:g}, {', '.join(map(str, weights))} sum to {total:g}"
        )
    return [weight / total for weight in weights]


def check_mergeable(sources: Sequence[Checkpoint]) -> None:
    """Refuses checkpoints of which there is no weighted sum; other settings of a later one are warned of.

    Raises:
        CheckpointError: There are fewer than two, one is quantized, or they differ in shape, tensors or vocabulary.
    """
    if len(sources) < 2:
        raise CheckpointError(f"two checkpoints or more are merged, got {len(sources)}")
    for source in sources:
        if source.weights_format is not None:
            raise CheckpointError(
                f"the weights must not be quantized to be merged, those of {source.folder} are "
                f"{source.weights_format}; merge the checkpoints that they were made from, then quantize"
            )
    first = sources[0]
    for other in sources[1:]:
        _check_shapes(first, other)
        _check_tensors(first, other)
        require_one_vocabulary(first.folder, other.folder)
        _check_padding(first, other)
        _warn_of_settings(first, other)


def _check_shapes(first: Checkpoint, other: Checkpoint) -> None:
    names = [field.name for field in dataclasses.fields(first.shape)]
    names = [
        name for name in names if name != "vocab_size" and getattr(first.shape, name) != getattr(other.shape, name)
    ]
    if names:
        # Of another family every size may have another name: that it is one is said alone.
        names = ["model_type"] if "model_type" in names else names
        expected, found = (
            ", ".join(f"{name} {getattr(source.shape, name)}" for name in names) for source in (first, other)
        )
        raise CheckpointError(
            f"checkpoints to merge must be of one shape, {first.folder} has {expected}; got {found} in {other.folder}"
        )


def _check_tensors(first: Checkpoint, other: Checkpoint) -> None:
    expected, found = _tensors(first), _tensors(other)
    differing = sorted(expected.keys() ^ found.keys())
    if differing:
        has, lacks = (first, other) if differing[0] in expected else (other, first)
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise CheckpointError(
            f"checkpoints to merge must hold the same tensors, {lacks.folder} lacks {differing[0]}{more}, "
            f"which {has.folder} holds"
        )
    for name, stored in expected.items():
        if stored.shape[padded_dims(first, name) :] != found[name].shape[padded_dims(first, name) :]:
            raise CheckpointError(
                f"{name} must have one shape in checkpoints to merge, it has {stored.shape} in {first.folder}, "
                f"got {found[name].shape} in {other.folder}"
            )
        _check_dtypes(name, stored, found[name])


def _check_dtypes(name: str, stored: StoredTensor, found: StoredTensor) -> None:
    known = [*FLOAT_VIEWS, *INTEGER_VIEWS]
    for each in (stored, found):
        if each.dtype not in known:
            raise CheckpointError(
                f"a tensor must be one of {', '.join(known)} to be merged, {name} in {each.file} is {each.dtype}"
            )
    if stored.dtype != found.dtype and not {stored.dtype, found.dtype} <= FLOAT_VIEWS.keys():
        raise CheckpointError(
            f"integers must be stored alike in checkpoints to merge, {name} is {stored.dtype} in {stored.file}, "
            f"got {found.dtype} in {found.file}"
        )


def _tensors(checkpoint: Checkpoint) -> Mapping[str, StoredTensor]:
    return {**checkpoint.tensors, **checkpoint.extras}


def padded_dims(checkpoint: Checkpoint, name: str) -> int:
    """How many leading dims of a tensor run over the vocabulary, whose rows beyond the tokenizer's are padding."""
    return int(name in (checkpoint.shape.family.embeddings, checkpoint.shape.family.head))


def _check_padding(first: Checkpoint, other: Checkpoint) -> None:
    rows = min(first.shape.vocab_size, other.shape.vocab_size)
    lacking = tokens_beyond(first.folder, rows) if first.shape.vocab_size != other.shape.vocab_size else {}
    if lacking:
        number, token = next(iter(lacking.items()))
        raise CheckpointError(
            f"checkpoints to merge must have embeddings of the same tokens, only one of {first.folder} and "
            f"{other.folder} has them of {number}, {token!r}"
        )


def _warn_of_settings(first: Checkpoint, other: Checkpoint) -> None:
    keys = (first.config.keys() | other.config.keys()) - INDIFFERENT_KEYS
    differing = sorted(key for key in keys if first.config.get(key) != other.config.get(key))
    if differing:
        logger.warning("%s: of another %s than the first one's, which is taken", other.folder, ", ".join(differing))
