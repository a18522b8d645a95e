"""Takes out of readers' wheels the few files that load a configuration: `python unpack_readers.py WHEELS FOLDER`.

Each wheel's files come into a folder of their own, NAME-VERSION.
"""

import sys
import zipfile
from pathlib import Path

# Package -> the files that are needed: a whole name, or what a name starts with.
NEEDED = {
    "sglang": (
        "sglang/srt/configs/nemotron_h.py",
        "sglang/srt/configs/mamba_utils.py",
        "sglang/srt/distributed/utils.py",
        "sglang/srt/environ.py",
    ),
    "transformers": (
        "transformers/utils/",
        "transformers/models/__init__.py",
        "transformers/models/nemotron_h/__init__.py",
        "transformers/models/nemotron_h/configuration_nemotron_h.py",
    ),
}


def unpack(wheel: Path, folder: Path) -> None:
    """Takes the needed files of a wheel, and the modules that lie in its package's own folder."""
    package, version = wheel.name.split("-")[:2]
    with zipfile.ZipFile(wheel) as archive:
        names = [
            name
            for name in archive.namelist()
            if name.endswith(".py")
            and (name.startswith(NEEDED[package]) or (package == "transformers" and name.count("/") == 1))
        ]
        archive.extractall(folder / f"{package}-{version}", names)


if __name__ == "__main__":
    for found in sorted(Path(sys.argv[1]).glob("*.whl")):
        unpack(found, Path(sys.argv[2]))
