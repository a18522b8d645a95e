"""Files of named arrays and one JSON object that describes them: a safetensors file, read as untrusted input."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from minitron.artifacts.atomic import READABLE, replacing
from minitron.artifacts.json_files import JsonFaultError, JsonObject, parse_object

DESCRIPTION = "minitron"  # key of the metadata that holds the object
_NONE = "none"  # name of the one array of a file without any


class ArrayFileError(ValueError):
    """A file that holds no arrays and their description; the message says why."""


def write_array_file(path: Path, description: Mapping[str, object], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes named arrays, of which there may be none, and the object that describes them, atomically."""
    with replacing(path) as partial:
        save_file(
            dict(arrays) or {_NONE: np.zeros(1, dtype=np.int64)},
            partial,
            metadata={DESCRIPTION: json.dumps(description)},
        )
        partial.chmod(READABLE)


def read_array_file(path: Path) -> tuple[JsonObject, dict[str, npt.NDArray[Any]]]:
    """The description and the arrays of a file; each is of whole numbers or of finite ones.

    Raises:
        ArrayFileError: The file is missing, damaged or lacks the description, or an array is of another kind.
    """
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(DESCRIPTION)
            arrays = {name: file.get_tensor(name) for name in file.keys() if name != _NONE}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise ArrayFileError(str(error)) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a dtype that numpy has not
        raise ArrayFileError(f"an array cannot be read: {error}") from error
    if text is None:
        raise ArrayFileError("it does not say what it holds")
    try:
        described = parse_object(text)
    except JsonFaultError as error:
        raise ArrayFileError(f"what it says of its arrays {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise ArrayFileError(f"{name!r} must hold finite numbers, it is of {array.dtype}")
    return described, arrays
