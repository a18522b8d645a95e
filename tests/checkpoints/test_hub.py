"""Checkpoints by their name on the hub: out of its cache without a network, and what is asked of it with one."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.headers import INDEX_FILE, SINGLE_FILE
from minitron.checkpoints.hub import (
    CONFIG_FILES,
    SMALL_FILES,
    HubName,
    find_checkpoint,
    find_config,
    hub_name,
    hub_origin,
)
from minitron.errors import CheckpointError
from tests.support.hub_cache import COMMIT, write_hub_cache
from tests.support.models import write_tiny_checkpoint

REPO = "owner/tiny-hybrid"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "source", shard_bytes=20_000)


class Hub:
    """Stands for the hub: notes what is asked, and puts into the cache what the patterns name."""

    def __init__(self, source: Path, cache: Path) -> None:
        self.source, self.cache = source, cache
        self.asked: list[tuple[str, str | None, tuple[str, ...], tuple[str, ...]]] = []

    def __call__(
        self, repo: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> str:
        self.asked.append((repo, revision, tuple(allow_patterns), tuple(ignore_patterns)))
        snapshot = self.cache / f"models--{repo.replace('/', '--')}" / "snapshots" / COMMIT
        snapshot.mkdir(parents=True, exist_ok=True)
        for path in self.source.iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                (snapshot / path.name).write_bytes(path.read_bytes())
        return str(snapshot)


@pytest.fixture
def hub(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    stub = Hub(source, cache)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", stub)
    return stub


@pytest.mark.parametrize("name", [REPO, f"{REPO}@main", f"{REPO}@{COMMIT}"])
def test_a_name_is_found_in_the_cache_without_a_network(cache: Path, source: Path, name: str) -> None:
    snapshot = write_hub_cache(cache, REPO, source)
    assert find_checkpoint(name) == find_config(name) == snapshot
    assert open_checkpoint(snapshot).params == open_checkpoint(source).params


def test_a_revision_is_the_commit_that_its_ref_names(cache: Path, source: Path, tmp_path: Path) -> None:
    other = write_tiny_checkpoint(tmp_path / "other")
    write_hub_cache(cache, REPO, source)
    later = write_hub_cache(cache, REPO, other, revision="v2", commit="f" * 40)
    assert find_checkpoint(f"{REPO}@v2") == later
    origin = hub_origin(later)
    assert origin is not None
    assert (origin.repo, origin.commit) == (REPO, "f" * 40)


def test_a_folder_that_is_there_goes_before_a_name(
    cache: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hub_cache(cache, REPO, source)
    here = write_tiny_checkpoint(tmp_path / "work" / REPO)
    monkeypatch.chdir(tmp_path / "work")
    assert find_checkpoint(REPO).resolve() == find_config(REPO).resolve() == here.resolve()


def test_small_files_are_fetched_first_then_the_shards_of_the_index_at_the_same_commit(hub: Hub, source: Path) -> None:
    for name in ("pytorch_model.bin", "consolidated.safetensors", "README.md", "picture.png"):
        (source / name).write_bytes(b"large")
    folder = find_checkpoint(f"{REPO}@v1.0")
    shards = tuple(sorted(path.name for path in source.glob("model-*.safetensors")))
    assert len(shards) > 1
    assert hub.asked == [(REPO, "v1.0", SMALL_FILES, ("*/*",)), (REPO, COMMIT, shards, ("*/*",))]
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in source.iterdir()} - {
        "pytorch_model.bin",
        "consolidated.safetensors",
        "picture.png",
    }
    open_checkpoint(folder)


def test_without_an_index_the_single_file_is_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.source = write_tiny_checkpoint(tmp_path / "single")
    open_checkpoint(find_checkpoint(REPO))
    assert [(revision, patterns) for _, revision, patterns, _ in hub.asked] == [
        (None, SMALL_FILES),
        (COMMIT, (SINGLE_FILE,)),
    ]


def test_what_is_whole_in_the_cache_is_asked_for_once(hub: Hub) -> None:
    find_checkpoint(REPO)
    hub.asked.clear()
    find_checkpoint(REPO)
    assert [patterns for *_, patterns, _ in hub.asked] == [SMALL_FILES]


def test_a_configuration_is_fetched_without_weights_or_tokenizer(hub: Hub) -> None:
    found = find_config(REPO)
    assert hub.asked == [(REPO, None, CONFIG_FILES, ("*/*",))]
    assert found.name == "config.json"
    assert {path.name for path in found.parent.iterdir()} <= set(CONFIG_FILES)


def test_an_index_of_the_hub_names_files_of_its_own_folder(hub: Hub, source: Path) -> None:
    index = json.loads((source / INDEX_FILE).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../../../elsewhere.safetensors")
    (source / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="must name files in its own folder"):
        find_checkpoint(REPO)
    assert len(hub.asked) == 1


@pytest.mark.parametrize("given", ["nowhere", "a/b/c", "./owner/name", "owner/", "own er/name", "owner/name@", ""])
def test_what_is_neither_a_folder_nor_a_name_is_said_at_once(hub: Hub, tmp_path: Path, given: str) -> None:
    given = given or str(tmp_path / "absolute")
    for find in (find_checkpoint, find_config):
        with pytest.raises(CheckpointError, match="checkpoint folder not found: .*; a name on the Hugging Face hub is"):
            find(given)
    assert hub.asked == []


def _http(kind: Callable[..., Exception], status: int) -> Exception:
    return kind(
        "Client Error\nwith a page of text", response=SimpleNamespace(status_code=status, headers={}, request=None)
    )


FAULTS: dict[str, tuple[Callable[[], Exception], str]] = {
    "gated": (lambda: _http(errors.GatedRepoError, 401), "is gated: accept its terms .*hf auth login"),
    "not found": (lambda: _http(errors.RepositoryNotFoundError, 404), "neither a folder here nor .*mend the name"),
    "private": (lambda: _http(errors.RepositoryNotFoundError, 401), "hf auth login.* if it is private"),
    "revision": (lambda: _http(errors.RevisionNotFoundError, 404), "a revision must be .* none that is called 'v9'"),
    "bad token": (lambda: _http(errors.HfHubHTTPError, 401), "with the token that is set: log in"),
    "hub is down": (lambda: _http(errors.HfHubHTTPError, 503), r"from the hub now \(it answered 503\); try again"),
    "connection is lost": (lambda: errors.HTTPError("reset"), r"from the hub now \(HTTPError\); try again later"),
    "bad name": (lambda: errors.HFValidationError("double dash"), "neither a folder here nor a checkpoint on the hub"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_hub_answers_is_one_line_with_its_mend(
    monkeypatch: pytest.MonkeyPatch, cache: Path, fault: str
) -> None:
    make, line = FAULTS[fault]
    asked = []

    def refuse(*args: Any, **_: Any) -> str:
        asked.append(args)
        raise make()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=line) as caught:
        find_checkpoint(f"{REPO}@v9")
    assert "\n" not in str(caught.value)
    assert REPO in str(caught.value)
    assert len(asked) == 1


@pytest.mark.parametrize(("offline", "line"), [(True, "unset HF_HUB_OFFLINE"), (False, "the hub cannot be reached")])
def test_a_name_that_is_not_in_the_cache_is_one_line_without_a_network(
    monkeypatch: pytest.MonkeyPatch, cache: Path, offline: bool, line: str
) -> None:
    if not offline:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

        def refuse(*_: Any, **__: Any) -> str:
            raise errors.LocalEntryNotFoundError("no connection")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=line) as caught:
        find_checkpoint(REPO)
    assert str(cache) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_the_cache_lacks_are_named_offline_and_the_configuration_is_enough_to_fit(
    cache: Path, source: Path
) -> None:
    shards = {path.name for path in source.glob("*.safetensors")}
    snapshot = write_hub_cache(cache, REPO, source, without=shards)
    with pytest.raises(CheckpointError, match=f"as safetensors, {min(shards)} is not in the hub's cache"):
        find_checkpoint(REPO)
    assert find_config(REPO) == snapshot / "config.json"


def test_a_repository_without_a_configuration_is_refused(cache: Path, source: Path) -> None:
    write_hub_cache(cache, REPO, source, without={"config.json"})
    with pytest.raises(CheckpointError, match=f"must hold a config.json, {REPO} has none"):
        find_checkpoint(REPO)


def test_a_revision_may_be_a_branch_with_slashes() -> None:
    assert hub_name("a/b@refs/pr/3") == HubName(repo="a/b", revision="refs/pr/3")


def test_a_folder_outside_the_cache_has_no_origin(source: Path, tmp_path: Path) -> None:
    assert hub_origin(source) is None
    assert hub_origin(tmp_path / "models--a--b" / "snapshots" / "main") is None
