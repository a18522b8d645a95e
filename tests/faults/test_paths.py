"""No file outside a checkpoint's folder is read or carried along because the folder says so."""

import os
from pathlib import Path

import pytest

from minitron.artifacts.paths import can_be_path, leads_astray
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.headers import SINGLE_FILE
from minitron.checkpoints.hub import find_checkpoint
from minitron.errors import CheckpointError
from tests.support.hub_cache import write_hub_cache
from tests.support.models import write_tiny_checkpoint


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("notes.txt", "secret.txt"),
        ("notes.txt", "notes.txt"),
        ("credentials.json", "credentials.json"),
        ("token", "token"),
        (".netrc", ".netrc"),
        ("tokenizer_config.json", "secret.txt"),
        ("README.md", "secret.txt"),
        ("extra.safetensors", "secret.txt"),
        ("folder", "."),
    ],
)
def test_a_link_to_what_is_no_file_of_a_checkpoint_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, name: str, target: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if target != ".":
        (elsewhere / target).write_text("nobody's business")
    (tiny_checkpoint / name).unlink(missing_ok=True)
    (tiny_checkpoint / name).symlink_to(elsewhere / target)
    with pytest.raises(CheckpointError, match=f"'{name}' of .* leads elsewhere"):
        open_checkpoint(tiny_checkpoint)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", SINGLE_FILE, "config.json"])
def test_files_of_a_checkpoint_may_lie_on_another_volume_under_their_names(
    tiny_checkpoint: Path, tmp_path: Path, name: str
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (tiny_checkpoint / name).rename(volume / name)
    (tiny_checkpoint / name).symlink_to(volume / name)
    assert open_checkpoint(tiny_checkpoint).params > 0


def test_links_inside_a_folder_and_into_the_hub_s_blobs_are_followed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tiny_checkpoint / "other.txt").symlink_to("tokenizer.json")
    assert not leads_astray(tiny_checkpoint / "other.txt")
    (tiny_checkpoint / "other.txt").unlink()
    snapshot = write_hub_cache(tmp_path / "hub", "owner/name", tiny_checkpoint)
    assert open_checkpoint(snapshot).params == open_checkpoint(tiny_checkpoint).params
    (tmp_path / "secret.txt").write_text("nobody's business")
    (snapshot / "notes.txt").symlink_to(tmp_path / "secret.txt")
    assert leads_astray(snapshot / "notes.txt")


def test_a_link_beside_a_cache_s_blobs_is_not_one_into_them(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "models--a--b" / "snapshots" / "0123")
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (tmp_path / "secret.txt").write_text("nobody's business")
    (folder / "notes.txt").symlink_to(os.path.join("..", "..", "blobs", "..", "..", "secret.txt"))
    assert leads_astray(folder / "notes.txt")


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3_000, "a/" * 300, "a\0b", "\ud800", "owner/" + "n" * 200])
def test_a_name_that_no_file_and_no_repository_can_have_is_refused(name: str) -> None:
    assert can_be_path(name) == name.startswith("owner/")
    with pytest.raises(CheckpointError, match="neither a folder here nor|checkpoint folder not found"):
        find_checkpoint(name)
