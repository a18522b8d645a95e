"""A cache of the Hugging Face hub as huggingface_hub lays it out: blobs, snapshots of links into them, refs."""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_hub_cache(
    cache: Path, repo: str, source: Path, *, revision: str = "main", commit: str = COMMIT, without: Collection[str] = ()
) -> Path:
    """Puts a folder's files into a cache under a repository's name and gives the snapshot."""
    home = cache / f"models--{repo.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    for folder in (home / "blobs", home / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (home / "refs" / revision).write_text(commit)
    for path in source.iterdir():
        if path.name not in without:
            content = path.read_bytes()
            blob = home / "blobs" / hashlib.sha256(content).hexdigest()
            blob.write_bytes(content)
            (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot
