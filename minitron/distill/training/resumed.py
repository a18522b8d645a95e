"""What Trainer reads of a saved state when a training resumes: tensors and plain values, or a refusal in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_model
from torch import nn
from transformers import TrainerState

from minitron.distill.sharding import load_weights
from minitron.distill.training.states import HISTORY_FILE, read_history
from minitron.errors import MinitronError


@contextmanager
def reading_state(state: str | Path | None) -> Iterator[None]:
    """Says in one line what is wrong with a saved state that the block cannot read.

    transformers 5.23 reads each of its pickled files by torch's loader of weights alone, which runs no code; what is
    neither tensors nor plain values makes it raise, as does a damaged file, each time another kind of error.

    Raises:
        MinitronError: The block raised something of its own.
    """
    try:
        yield
    except MinitronError:
        raise
    except Exception as error:  # torch, safetensors and transformers raise whatever they trip over
        raise MinitronError(
            f"a saved state must be whole and hold tensors and plain values alone, {state} does not; remove it to "
            f"begin anew: {type(error).__name__}: {error}"
        ) from error


def check_record(state: Path) -> None:
    """Refuses a state whose record Trainer would trip over in the middle of its loop.

    Raises:
        MinitronError: It is none of Trainer's.
    """
    read_history(state)
    with reading_state(state):
        TrainerState.load_from_json(str(state / HISTORY_FILE))


def load_finished(model: nn.Module, state: Path, *, sharded: bool) -> list[dict[str, float]]:
    """Puts the weights of a state that needs no more training into a model, in place, and gives what was logged.

    Raises:
        MinitronError: They cannot be read, or are of another model.
    """
    if sharded:
        load_weights(model, state)
    else:
        with reading_state(state):
            load_model(model, state / "model.safetensors")
    return read_history(state)
