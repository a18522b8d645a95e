"""llama.cpp's name of a pre-tokenizer, from what a `tokenizer.json` declares.

llama.cpp splits text by a function of its own for each name. A name is given here only where its expressions are the
declared ones; of tekken and gpt-4o llama.cpp itself leaves out that combining marks belong to words.
Source: ggml-org/llama.cpp, src/llama-vocab.cpp, which quotes the expressions of tokenizer.json.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from minitron.errors import MinitronError

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
REST_WITH_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

QWEN2 = rf"{WORDS}|{BEFORE}\p{{L}}+|\p{{N}}|{REST}"
LLAMA3 = rf"{WORDS}|{BEFORE}\p{{L}}+|\p{{N}}{{1,3}}|{REST}"
QWEN35 = rf"{WORDS}|{BEFORE}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = rf"{BEFORE}{UPPER}*{LOWER}+|{BEFORE}{UPPER}+{LOWER}*|\p{{N}}|{REST_WITH_SLASH}"
GPT4O = rf"{BEFORE}{UPPER}*{LOWER}+{WORDS}?|{BEFORE}{UPPER}+{LOWER}*{WORDS}?|\p{{N}}{{1,3}}|{REST_WITH_SLASH}"

# A step: what it is, and its expression, if any. `words` is the expression that ByteLevel has by itself.
Step = tuple[str, str]
BYTES: Step = ("bytes", "")
WORDS_AND_BYTES: Step = ("bytes", "words")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A pre-tokenizer that llama.cpp has a name for.

    Attributes:
        name: The name.
        steps: What `tokenizer.json` declares.
        ignores_merges: Whether llama.cpp takes a word that is a token as it is, without merging.
    """

    name: str
    steps: tuple[Step, ...]
    ignores_merges: bool = False


KNOWN = (
    Known(name="gpt-2", steps=(WORDS_AND_BYTES,)),
    Known(name="smollm", steps=(("digits", ""), WORDS_AND_BYTES)),
    Known(name="qwen2", steps=(("split", QWEN2), BYTES)),
    Known(name="qwen35", steps=(("split", QWEN35), BYTES)),
    Known(name="llama-bpe", steps=(("split", LLAMA3), BYTES), ignores_merges=True),
    Known(name="tekken", steps=(("split", TEKKEN), BYTES), ignores_merges=True),
    Known(name="gpt-4o", steps=(("split", GPT4O), BYTES)),
)


def find_pre_tokenizer(declared: object) -> Known | None:
    """The pre-tokenizer of a declaration; None where llama.cpp has no name that surely splits as it does.

    >>> find_pre_tokenizer({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}).name
    'gpt-2'
    """
    steps = tuple(_steps(declared))
    return next((known for known in KNOWN if known.steps == steps), None)


def known_pre_tokenizer(name: str) -> Known | None:
    """The pre-tokenizer of a name; None for one that is not known here."""
    return next((known for known in KNOWN if known.name == name), None)


def refuse_unknown(declared: object, folder: object) -> MinitronError:
    """The error for a declaration that no name is known for."""
    names = ", ".join(known.name for known in KNOWN)
    shown = json.dumps(declared)
    return MinitronError(
        f"the pre-tokenizer must split as one of llama.cpp's does ({names}), that of {folder} is "
        f"{shown if len(shown) <= 300 else shown[:297] + '...'}; name the one to write with --pre-tokenizer NAME"
    )


def is_byte_level(declared: object) -> bool:
    """Whether a declared pre-tokenizer turns bytes into characters of their own, as GPT-2's does."""
    return any(what == "bytes" for what, _ in _steps(declared))


def _steps(declared: object) -> Iterator[Step]:
    if not isinstance(declared, dict):
        yield ("none", "")
        return
    kind = declared.get("type")
    if kind == "Sequence":
        for each in declared.get("pretokenizers") or ():
            yield from _steps(each)
    elif kind == "ByteLevel" and not declared.get("add_prefix_space", True):
        yield WORDS_AND_BYTES if declared.get("use_regex", True) else BYTES
    elif kind == "ByteLevel":
        yield ("bytes", "with a space before the text")
    elif kind == "Digits" and declared.get("individual_digits"):
        yield ("digits", "")
    elif kind == "Split" and _isolates(declared) and isinstance(declared.get("pattern"), dict):
        yield ("split", str(declared["pattern"].get("Regex")))
    else:
        yield ("other", str(kind))


def _isolates(declared: dict[str, object]) -> bool:
    # Removing what is between the matches keeps them all where they cover the text, as these expressions do.
    return (declared.get("behavior"), bool(declared.get("invert"))) in (("Isolated", False), ("Removed", True))
