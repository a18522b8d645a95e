"""Which serving readers take a checkpoint, from its configuration and headers alone. Loads no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from minitron.artifacts.json_files import JsonObject, as_json
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.hub import find_config
from minitron.checkpoints.quantization import find_quantization
from minitron.errors import MinitronError
from minitron.estimate.serving.reader_names import NEWEST
from minitron.integrations.readers.check import check as check_config
from minitron.integrations.readers.check import find_reader
from minitron.integrations.readers.reader import Refusal
from minitron.models.config import read_config, shape_from_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What the readers say of a checkpoint.

    Attributes:
        model: Checkpoint folder, `config.json` or name on the hub, as it was given.
        tensor_parallel: GPUs that every matrix is split over.
        refusals: Reader -> why it does not take the checkpoint; empty where it does.
    """

    model: Path
    tensor_parallel: int
    refusals: Mapping[str, tuple[Refusal, ...]]

    @property
    def takes(self) -> bool:
        """Whether every reader takes it."""
        return not any(self.refusals.values())

    @property
    def lines(self) -> tuple[str, ...]:
        """One line a fault, with the reader's name."""
        return tuple(
            f"{name} {find_reader(name).version}: {refusal}"
            for name, found in self.refusals.items()
            for refusal in found
        )

    def to_json(self) -> JsonObject:
        """The object that `minitron check --json` prints."""
        return as_json(
            {
                "model": str(self.model),
                "tensor_parallel": self.tensor_parallel,
                "takes": self.takes,
                "readers": {
                    name: {
                        "version": find_reader(name).version,
                        "takes": not found,
                        "refusals": [asdict(refusal) for refusal in found],
                        "notes": find_reader(name).notes,
                    }
                    for name, found in self.refusals.items()
                },
            }
        )


def check(model: str | Path, readers: Sequence[str] = (), *, tensor_parallel: int = 1) -> Checked:
    """Which serving readers (vLLM, SGLang, llama.cpp, ...) take a checkpoint, and what to mend where one refuses.

    Args:
        model: Checkpoint folder, `config.json`, or a name on the Hugging Face hub, of which no weights are fetched.
        readers: vllm, sglang, llamacpp, tensorrt-llm, mlx, transformers, and older ones as vllm@0.11 or
            transformers@5.12; the newest of each when empty.
        tensor_parallel: GPUs that every matrix is split over.

    Returns:
        `takes`, `refusals` by reader (key, rule, what was found, how to mend it, source), and `to_json()`.

    Raises:
        MinitronError: The checkpoint cannot be read, or there is no such reader.

    Example:
        ```python
        found = minitron.check("pruned/", ["vllm", "llamacpp"], tensor_parallel=2)
        print(found.takes, found.lines)
        ```
    """
    if tensor_parallel < 1:
        raise MinitronError(f"tensor_parallel must be at least 1, got {tensor_parallel}")
    names = tuple(dict.fromkeys(readers)) or NEWEST
    for name in names:
        find_reader(name)
    path = find_config(model)
    config = read_config(path)
    shape, quantization = shape_from_config(config), find_quantization(config, path)
    if path.is_dir() and (quantization is None or quantization.layout is not None):
        open_checkpoint(path, quantized=True)  # files that are at odds with the configuration are refused
    return Checked(
        model=Path(model),
        tensor_parallel=tensor_parallel,
        refusals={name: check_config(config, shape, name, tensor_parallel) for name in names},
    )
