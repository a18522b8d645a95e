"""Checkpoints by their name on the Hugging Face hub: fetched into its cache, file by file what is needed.

A name is `owner/name`, or `owner/name@revision` with a branch, a tag or a commit. A folder that is there goes first.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.paths import can_be_path
from minitron.checkpoints.headers import INDEX_FILE, SINGLE_FILE, read_index
from minitron.errors import CheckpointError

_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>\w[\w./-]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
CONFIG_FILE = "config.json"
# What says what a model is and how it is quantized: kilobytes.
CONFIG_FILES = (CONFIG_FILE, "generation_config.json", "hf_quant_config.json", INDEX_FILE)
# Everything that a checkpoint carries beside its weights: tokenizer, templates, code of its own; and its card.
SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.py", "README.md")
FOLDERS = ("*/*",)  # of other copies of the weights, of pictures

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubName:
    """A repository on the hub, and its revision; what the hub calls the main one when None."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOrigin:
    """Where a folder of the hub's cache comes from: repository, and the commit that its revision was."""

    repo: str
    commit: str


def hub_name(given: str) -> HubName | None:
    """The name that a text is; None where it cannot be one.

    >>> hub_name("nvidia/NVIDIA-Nemotron-Nano-9B-v2@main")
    HubName(repo='nvidia/NVIDIA-Nemotron-Nano-9B-v2', revision='main')
    >>> hub_name("teacher"), hub_name("runs/first/prune"), hub_name("../teacher")
    (None, None, None)
    """
    found = _NAME.fullmatch(given)
    return None if found is None else HubName(repo=found["repo"], revision=found["revision"])


def hub_origin(folder: Path) -> HubOrigin | None:
    """Where a folder comes from that lies in the hub's cache; None for any other folder.

    >>> hub_origin(Path("hub/models--nvidia--nano/snapshots/" + 40 * "a")).repo
    'nvidia/nano'
    """
    path = Path(os.path.abspath(folder))  # links are left as they are: they lead into the cache's blobs
    repo = path.parent.parent.name
    if path.parent.name != "snapshots" or not repo.startswith("models--") or not _COMMIT.fullmatch(path.name):
        return None
    return HubOrigin(repo=repo.removeprefix("models--").replace("--", "/"), commit=path.name)


def find_checkpoint(given: str | Path) -> Path:
    """The folder of a checkpoint that is given by its folder or by its name on the hub, whose files are fetched.

    Only what is needed is: the weights as safetensors, the configuration, the tokenizer, and what else is small.

    Raises:
        CheckpointError: It is neither, or cannot be fetched.
    """
    found, folder = _local_or_fetched(given, SMALL_FILES)
    if found is None or not _missing_weights(folder):
        return folder
    # The commit, so that weights and configuration are of one, whatever is pushed meanwhile.
    folder = _fetch(HubName(repo=found.repo, revision=folder.name), _weight_files(folder))
    missing = _missing_weights(folder)
    if missing:
        where = "in the hub's cache, and the hub is not asked (HF_HUB_OFFLINE)" if _is_offline() else "on the hub"
        raise CheckpointError(f"the weights of {found} must be there as safetensors, {missing[0]} is not {where}")
    return folder


def find_config(given: str | Path) -> Path:
    """A checkpoint's folder or `config.json`, given by a path or by its name on the hub; no weights are fetched.

    Of a name it is the cache's folder where that holds the weights, too, and the `config.json` in it where not.

    Raises:
        CheckpointError: It is neither, or cannot be fetched.
    """
    found, folder = _local_or_fetched(given, CONFIG_FILES)
    return folder / CONFIG_FILE if found is not None and _missing_weights(folder) else folder


def _local_or_fetched(given: str | Path, patterns: Sequence[str]) -> tuple[HubName | None, Path]:
    """A path as it is, without a name; or a name, and the cache's folder with the files that were asked for."""
    path = Path(given)
    if can_be_path(str(given)) and path.exists():
        return None, path
    name = hub_name(str(given))
    if name is None:
        raise CheckpointError(f"checkpoint folder not found: {given}; a name on the Hugging Face hub is owner/name")
    return name, _fetch(name, patterns)


def _fetch(name: HubName, patterns: Sequence[str]) -> Path:
    import huggingface_hub  # 0.2 s to import, needed for such names alone

    with _reporting(name):
        folder = Path(
            huggingface_hub.snapshot_download(
                name.repo, revision=name.revision, allow_patterns=list(patterns), ignore_patterns=list(FOLDERS)
            )
        )
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"a checkpoint must hold a {CONFIG_FILE}, {name} has none")
    logger.info("%s is commit %s, in %s", name, folder.name, folder)
    return folder


@contextmanager
def _reporting(name: HubName) -> Iterator[None]:
    """Says in one line what the hub, or the way to it, has against a name."""
    from huggingface_hub import constants, errors

    log_in = "log in with `hf auth login` or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(f"{name} is gated: accept its terms on its page on the hub, then {log_in}") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"a revision must be a branch, a tag or a commit, {name.repo} has none that is called {name.revision!r}"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise CheckpointError(
            f"{name} is neither a folder here nor a checkpoint on the hub: mend the name, or {log_in} if it is private"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        cache = constants.HF_HUB_CACHE
        if _is_offline():
            raise CheckpointError(
                f"{name} is neither a folder here nor whole in the hub's cache {cache}, and the hub is not asked: "
                "unset HF_HUB_OFFLINE, or fetch it where there is a network"
            ) from error
        raise CheckpointError(
            f"{name} is neither a folder here nor whole in the hub's cache {cache}, and the hub cannot be reached: "
            "mend the path or the network"
        ) from error
    except errors.HTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise CheckpointError(f"{name} cannot be read with the token that is set: {log_in} anew") from error
        reason = f"it answered {status}" if status else type(error).__name__
        raise CheckpointError(f"{name} cannot be fetched from the hub now ({reason}); try again later") from error


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _weight_files(folder: Path) -> list[str]:
    index = folder / INDEX_FILE
    return sorted(set(read_index(index).values())) if index.is_file() else [SINGLE_FILE]


def _missing_weights(folder: Path) -> list[str]:
    if (folder / SINGLE_FILE).is_file():
        return []
    return [name for name in _weight_files(folder) if not (folder / name).is_file()]
