"""Folders without safetensors: what to say of them, and the line that converts weights that torch pickled."""

import shlex
from pathlib import Path

from minitron.errors import CheckpointError

PICKLED = "pytorch_model*.bin"
# Reads tensors alone: a pickle may hold any program. Copies, since safetensors keeps no two names of one memory.
CONVERSION = (
    "import sys, torch; from pathlib import Path; from safetensors.torch import save_file; folder = Path(sys.argv[1]); "
    f"files = sorted(folder.glob('{PICKLED}')); "
    "load = lambda file: torch.load(file, map_location='cpu', weights_only=True); "
    "state = {name: tensor.clone().contiguous() for file in files for name, tensor in load(file).items()}; "
    "save_file(state, folder / 'model.safetensors', metadata={'format': 'pt'})"
)


def conversion_line(folder: Path) -> str:
    """The command that writes a folder's pickled weights beside them as `model.safetensors`."""
    return shlex.join(["python", "-c", CONVERSION, str(folder)])


def no_weights(folder: Path, *, expected: str) -> CheckpointError:
    """What is wrong with a folder that holds none of the expected files, and how to mend it where that is known."""
    found = f"a checkpoint must hold {expected}, {folder} has neither"
    if any(folder.glob(PICKLED)):
        return CheckpointError(f"{found}; its {PICKLED} is converted by: ", command=conversion_line(folder))
    others = sorted(path.name for path in folder.glob("*.gguf")) + sorted(path.name for path in folder.glob("*.pt*"))
    return CheckpointError(f"{found}; {others[0]} is of a form that is not read" if others else found)
