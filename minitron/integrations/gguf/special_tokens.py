"""What a tokenizer's files say of special tokens: their ids, which of them enclose a text, and the chat template."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minitron.errors import MinitronError
from minitron.integrations.gguf.family import Config

logger = logging.getLogger(__name__)

TEMPLATE_FILE = "chat_template.jinja"
# Name in transformers -> key in a GGUF file.
SPECIAL = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id", "unk": "unknown_token_id"}


def special_ids(settings: Mapping[str, object], config: Config, ids: Mapping[str, int], folder: Path) -> dict[str, int]:
    """Key -> id of the special tokens: those of the tokenizer, else those of the model's configuration.

    Raises:
        MinitronError: One is no token, or there is no end-of-text token.
    """
    found: dict[str, int] = {}
    for name, key in SPECIAL.items():
        text = _text(settings.get(f"{name}_token"))
        number = _first(config.get(f"{name}_token_id"))
        if text is not None and text not in ids:
            raise MinitronError(f"{name}_token of {folder} must be one of its tokens, {text!r} is not")
        if text is not None:
            found[key] = ids[text]
        elif number is not None and number in ids.values():
            found[key] = number
    if "eos_token_id" not in found:
        raise MinitronError(f"the tokenizer of {folder} must name an eos_token, it names none")
    return found


def text_ends(post_processor: object, special: Mapping[str, int], folder: Path) -> tuple[bool, bool]:
    """Whether the bos token is put before a text, and the eos token behind it.

    As for transformers 5.23, the template in `tokenizer.json` says so, whatever `add_bos_token` there is beside it.
    """
    ends: tuple[list[int], list[int]] = ([], [])
    for template in _templates(post_processor):
        numbers = {name: token["ids"] for name, token in (template.get("special_tokens") or {}).items()}
        behind = 0
        for piece in template.get("single") or ():
            if "Sequence" in piece:
                behind = 1
            else:
                ends[behind].extend(numbers.get(piece["SpecialToken"]["id"], []))
    expected = [[special[key]] if key in special else [] for key in ("bos_token_id", "eos_token_id")]
    for place, wanted, known in zip(("before", "behind"), ends, expected, strict=True):
        if wanted and wanted != known:
            logger.warning("%s: tokens %s are put %s a text, which llama.cpp cannot", folder, wanted, place)
    return bool(ends[0]) and ends[0] == expected[0], bool(ends[1]) and ends[1] == expected[1]


def chat_template(folder: Path, settings: Mapping[str, object]) -> str | None:
    """The chat template of a folder: its file, or the default one of the tokenizer's settings.

    Raises:
        MinitronError: The file is not UTF-8.
    """
    if (folder / TEMPLATE_FILE).is_file():
        try:
            return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise MinitronError(f"a chat template must be UTF-8, {folder / TEMPLATE_FILE} is not: {error}") from error
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _templates(post_processor: object) -> Iterator[Mapping[str, Any]]:
    if not isinstance(post_processor, dict):
        return
    if post_processor.get("type") == "TemplateProcessing":
        yield post_processor
    for each in post_processor.get("processors") or ():
        yield from _templates(each)


def _text(token: object) -> str | None:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _first(number: object) -> int | None:
    found = number[0] if isinstance(number, list) and number else number
    return found if type(found) is int else None
