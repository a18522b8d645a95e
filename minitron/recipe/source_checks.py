"""Checks of sources of text that need no torch: what is there, what its records are, and who renders conversations."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from minitron.artifacts.json_files import parse_json
from minitron.data.documents import read_documents, read_kind
from minitron.data.locations import locate
from minitron.data.split import part_of
from minitron.errors import DataError, MinitronError
from minitron.recipe.source import Source

TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


def check_sources(sources: Sequence[Source], checkpoint: Path) -> None:
    """Refuses sources that the first record shows to be unusable; those on the hub are not asked for.

    Args:
        sources: What is read.
        checkpoint: Whose tokenizer reads it.

    Raises:
        MinitronError: Every fault at once, a line each.
    """
    faults = dict.fromkeys(fault for source in sources for fault in _faults(source, checkpoint))
    if faults:
        raise MinitronError(*faults)


def check_held_out(judged: Sequence[Source]) -> None:
    """Refuses sources of evaluation none of whose documents is in the part that is held out; hours later it would fail.

    A file is read up to its first such document, what is on the hub or saved by `save_to_disk` is not.

    Raises:
        MinitronError: Every fault at once, a line each.
    """
    empty = [source for source in judged if source.held_out and locate(source.path).files and not _holds_out(source)]
    if empty:
        raise MinitronError(
            *(
                f"{source.path} must have a document in the part that evaluation reads, none is with "
                f"held_out={source.held_out}: raise it, or name held-out text of its own"
                for source in empty
            )
        )


def _holds_out(source: Source) -> bool:
    documents = read_documents(source.path, field=source.field, split=source.split, kind=source.kind)
    return any(part_of(document, held_out=source.held_out) == "held_out" for document in documents)


def has_chat_template(checkpoint: Path) -> bool:
    """Whether a checkpoint folder brings a chat template, wherever transformers looks for one."""
    if any((checkpoint / name).exists() for name in TEMPLATE_FILES):
        return True
    try:
        settings = parse_json((checkpoint / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):  # told by whoever loads the tokenizer
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


def _faults(source: Source, checkpoint: Path) -> Iterator[str]:
    try:
        location = locate(source.path)
        # Saved datasets take seconds to open, and one on the hub takes another machine.
        kind = source.kind or (read_kind(source.path, field=source.field) if location.files else None)
    except DataError as error:
        yield str(error)
        return
    if source.chat_template is not None and not Path(source.chat_template).is_file():
        yield f"chat_template must be a file that is there, {source.chat_template} is not"
    if kind == "text" and source.loss == "answers":
        yield f"loss: answers needs conversations, {source.path} holds text; leave loss out, or set kind"
    if kind in (None, "text"):
        return
    if source.excerpt_chars is not None:
        yield f"conversations are not cut into excerpts, {source.path} holds some; leave excerpt_chars out"
    if source.chat_template is None and not has_chat_template(checkpoint):
        yield (
            f"conversations need a chat template, the tokenizer of {checkpoint} has none for {source.path}; set "
            "chat_template on the source to a file of one, or save one as chat_template.jinja in the checkpoint folder"
        )
