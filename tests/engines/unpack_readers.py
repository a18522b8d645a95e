"""Takes out of readers' wheels the few files that load a configuration: `python unpack_readers.py WHEELS FOLDER`.

Each wheel's files come into a folder of their own, NAME-VERSION.
"""

import sys
import zipfile
from pathlib import Path

# Folders of transformers' models.
FAMILIES = (
    "nemotron_h",
    "mistral",
    "qwen2",
    "smollm3",
    "gemma3",
    "siglip",  # which Gemma 3's imports
    "granitemoehybrid",
    "bamba",
    "qwen3_moe",
    "qwen3_5",
    "qwen3_5_moe",
)
# Package -> the files that are needed: a whole name, or what a name starts with.
NEEDED = {
    "sglang": (
        "sglang/srt/configs/nemotron_h.py",
        "sglang/srt/configs/granitemoehybrid.py",
        "sglang/srt/configs/mamba_utils.py",
        "sglang/srt/distributed/utils.py",
        "sglang/srt/environ.py",
    ),
    "transformers": (
        "transformers/utils/",
        "transformers/models/__init__.py",
        *(
            f"transformers/models/{family}/{file}"
            for family in FAMILIES
            for file in ("__init__.py", f"configuration_{family}.py")
        ),
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
