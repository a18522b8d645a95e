"""A dataset of the Hugging Face hub by its `owner/name`, streamed; in offline mode what was downloaded before."""

from collections.abc import Iterator

from minitron.data.formats.row import Row
from minitron.errors import DataError

ANSWER_S = 10.0  # what the hub may take to say whether it has a dataset


def read_hub(name: str, split: str) -> Iterator[Row]:
    """Yields the rows of a split.

    Raises:
        DataError: The dataset or the split could not be opened.
    """
    from datasets import config, load_dataset  # seconds to import, needed for hub names alone

    offline = config.HF_HUB_OFFLINE
    if not offline:
        _ask_for(name)
    try:
        rows = load_dataset(name, split=split, streaming=not offline)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        mode = "; offline mode is on (HF_HUB_OFFLINE), in which it must have been downloaded before" if offline else ""
        raise DataError(f"{name} is neither a file here nor a dataset that could be opened: {reason}{mode}") from error
    for number, values in enumerate(rows):
        yield Row(values, f"{name} row {number}")


def _ask_for(name: str) -> None:
    """Asks the hub once whether it has a dataset; opening one that it has not, or without a network, retries long."""
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(name, timeout=ANSWER_S)
    except Exception as error:  # of the HTTP client that huggingface_hub happens to use
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DataError(
            f"{name} is neither a file here nor a dataset that the hub gives: {reason}; mend it, log in, or set "
            "HF_HUB_OFFLINE=1 to take what was downloaded before"
        ) from error
