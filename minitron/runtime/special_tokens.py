"""Special tokens that a tokenizer does not name: what is taken in their place, said in the log."""

import logging
from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from minitron.artifacts.json_files import read_json

logger = logging.getLogger(__name__)

# Where a model's end-of-text token stands, beside the tokenizer; generation stops at any of those that are listed.
CONFIGURED = ("generation_config.json", "config.json")


def fill_special_tokens(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Fills in the end-of-text and the padding token of a checkpoint's tokenizer, in place, where it names none.

    An end of text is the first one that the model's configuration names; without any it stays unnamed, and packing text
    refuses. Padding is masked wherever it is used, so any token will do.
    """
    if tokenizer.eos_token_id is None:
        for file, number in _configured(folder):
            token = tokenizer.convert_ids_to_tokens(number)
            if token is not None:
                tokenizer.eos_token = token
                logger.warning("%s: the tokenizer names no eos_token; %s has %d, %r", folder, file, number, token)
                break
    if tokenizer.pad_token_id is None:
        token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
        tokenizer.pad_token = token
        logger.info("%s: the tokenizer names no pad_token; %r is taken, and masked", folder, token)


def _configured(folder: Path) -> Iterator[tuple[str, int]]:
    for file in CONFIGURED:
        if (folder / file).is_file():
            found = read_json(folder / file).get("eos_token_id")
            numbers = found if isinstance(found, list) else [found]
            yield from ((file, number) for number in numbers if type(number) is int)
