"""Whether a serving reader takes a configuration; what it refuses, by which rule, and how to mend it."""

from collections.abc import Iterator

from minitron.errors import MinitronError
from minitron.estimate.serving.readers import broken_rules, good_splits, nearest_sizes
from minitron.estimate.serving.shape_rules import Serving, ShapeRule
from minitron.integrations.readers.llamacpp import LLAMACPP
from minitron.integrations.readers.mlx import MLX
from minitron.integrations.readers.reader import Config, Family, Reader, Refusal
from minitron.integrations.readers.rules import known_architecture, needed_keys, sizes_as_meant
from minitron.integrations.readers.sglang import SGLANG
from minitron.integrations.readers.tensorrt_llm import TENSORRT_LLM
from minitron.integrations.readers.transformers import TRANSFORMERS, TRANSFORMERS_5_12
from minitron.integrations.readers.vllm import VLLM, VLLM_0_11
from minitron.models.shape import HybridShape

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (VLLM, SGLANG, LLAMACPP, TENSORRT_LLM, MLX, TRANSFORMERS, VLLM_0_11, TRANSFORMERS_5_12)
}


def check(config: Config, shape: HybridShape, reader: str, tensor_parallel: int = 1) -> tuple[Refusal, ...]:
    """Why a reader does not take a configuration; empty where it does.

    Args:
        config: The `config.json`, as it stands.
        shape: The shape that it describes.
        reader: A name in `READERS`.
        tensor_parallel: GPUs that every matrix is split over.

    Raises:
        MinitronError: There is no such reader.
    """
    declared = find_reader(reader)
    given = frozenset(key for key, value in config.items() if value is not None)
    serving = Serving(readers=(declared.name,), tensor_parallel=tensor_parallel, config_keys=given)
    dims = tuple(_dims(shape, declared, serving))
    family = declared.families.get(shape.model_type)
    if family is None:
        return tuple(refusal for refusal in dims if refusal.key == "model_type")
    return (*_keys(config, shape, family), *dims)


def find_reader(name: str) -> Reader:
    """A reader by its name.

    Raises:
        MinitronError: There is none.
    """
    if name not in READERS:
        raise MinitronError(f"a reader must be one of {', '.join(READERS)}, got {name!r}")
    return READERS[name]


def _keys(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
    yield from known_architecture(config, family)
    yield from needed_keys(config, family)
    yield from sizes_as_meant(config, shape, family)
    for rule in family.rules:
        yield from rule(config, shape, family)


def _dims(shape: HybridShape, reader: Reader, serving: Serving) -> Iterator[Refusal]:
    for _, rule in broken_rules(shape, serving):
        yield Refusal(
            key=rule.key,
            rule=rule.states(shape.sizes, serving),
            found=f"got {rule.found(shape, serving)}",
            mend=_mend(shape, reader, rule, serving),
            source=rule.source,
        )


def _mend(shape: HybridShape, reader: Reader, rule: ShapeRule, serving: Serving) -> str:
    ways = [] if rule.mend is None else [rule.mend(shape.sizes)]
    sizes = nearest_sizes(shape, rule, serving)
    if sizes:
        ways.append(f"nearest: {' or '.join(map(str, sizes))}")
    splits = [str(gpus) for gpus in good_splits(shape, reader.name, serving) if gpus != serving.tensor_parallel]
    if splits:
        ways.append(f"tensor_parallel={'|'.join(splits)}")
    return ", or ".join(ways) or "serve with another reader"
