"""Names of files that came from elsewhere: whether one can be a path, and where a link may lead.

A folder that a stranger made may hold links, an archive's for example. Whoever put them there does not say where the
owner's files are, so that nothing but what belongs into such a folder may be behind one.
"""

import os
import re
from pathlib import Path

MOST_PATH_BYTES, MOST_NAME_BYTES = 4095, 255
MOST_FOLDERS = 255  # inside each other; patterns of files are looked for by a call for each
# Files that a checkpoint has, of which its owner may keep those of another volume, under their own names.
_OF_CHECKPOINTS = re.compile(
    r".*\.safetensors(\.index\.json)?|(config|generation_config|hf_quant_config|preprocessor_config|tokenizer_config"
    r"|special_tokens_map|added_tokens|tokenizer|vocab|lineage|students|vocabulary|artifact)\.json|merges\.txt"
    r"|vocab\.txt|tokenizer\.model|chat_template\.(jinja|json)|prune\.plan|README\.md|LICENSE(\.\w+)?"
)


def can_be_path(text: str) -> bool:
    r"""Whether a text can name a file at all.

    >>> can_be_path("data/train.jsonl"), can_be_path("x" * 300), can_be_path("a\0b")
    (True, False, False)
    """
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:
        return False
    names = raw.split(b"/")
    return (
        b"\0" not in raw
        and len(raw) <= MOST_PATH_BYTES
        and len(names) <= MOST_FOLDERS + 1
        and max(map(len, names)) <= MOST_NAME_BYTES
    )


def leads_astray(path: Path) -> bool:
    """Whether a file is a link out of its folder to what does not belong into a checkpoint.

    A link may lead to another file of its folder, to a file of a checkpoint of the same name wherever it lies, and
    from a folder of the hub's cache to that cache's blobs, which may lie on another volume.
    """
    if not path.is_symlink() or not path.exists():  # one that leads nowhere is a missing file
        return False
    target = path.resolve()
    if target.is_relative_to(path.parent.resolve()):
        return False
    if _OF_CHECKPOINTS.fullmatch(path.name) and target.name == path.name:
        return False
    if path.suffix == ".safetensors" and target.suffix == path.suffix:
        return False
    named = Path(os.path.abspath(path.parent / os.readlink(path)))
    return not (named.parent.name == "blobs" and named.parent.parent.name.startswith("models--"))
