"""What the records of a source are, by their fields or as stated, and the document that each holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from minitron.artifacts.json_files import JsonFaultError, JsonObject, parse_json
from minitron.data.conversations import Conversation, Document, read_messages
from minitron.data.formats.row import Row
from minitron.errors import DataError

RecordKind: TypeAlias = Literal["text", "messages", "prompt_completion"]
# What a loss counts: all tokens, or those of answers alone; None: answers of conversations, all of text.
LossTokens: TypeAlias = Literal["all", "answers"] | None
KINDS: tuple[RecordKind, ...] = get_args(RecordKind)
TEXT_FIELD = "text"
PROMPT, COMPLETION, MESSAGES, TOOLS = "prompt", "completion", "messages", "tools"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordForm:
    """How a source's records are read.

    Attributes:
        kind: What they are; found from the fields of the first one when None.
        field: Field of the text, or of the messages where it is not `text`.
    """

    kind: RecordKind | None = None
    field: str = TEXT_FIELD

    @property
    def columns(self) -> tuple[str, ...]:
        """Fields that may be read."""
        return tuple(dict.fromkeys((self.field, MESSAGES, PROMPT, COMPLETION, TOOLS)))

    def resolved(self, row: Row) -> "RecordForm":
        """The form with its kind, found from a row's fields where it is not stated.

        Raises:
            DataError: The fields are those of no kind, or of several.
        """
        if self.kind is not None:
            return self
        names, fields = set(row.names), ", ".join(row.names) or "none"
        fit = {
            "text": self.field in names,
            "messages": MESSAGES in names,
            "prompt_completion": {PROMPT, COMPLETION} <= names,
        }
        found = [kind for kind in KINDS if fit[kind]]
        if self.field != TEXT_FIELD and self.field in names:  # stated: what it holds decides
            found = ["messages" if isinstance(row.values.get(self.field), list) else "text"]
        if len(found) > 1:
            raise DataError(
                f"a record must be of one kind, {row.where} can be {' or '.join(found)} by its fields {fields}; say "
                f"which by kind: {found[0]}"
            )
        if not found:
            raise DataError(
                f"a record must have the field {self.field!r}, or messages, or prompt and completion; {row.where} has "
                f"the fields {fields}; name the one to read by field"
            )
        return RecordForm(kind=found[0], field=self.field)

    def read(self, row: Row) -> Document | None:
        """The document of a row; None where its text is null or blank.

        Raises:
            DataError: A field is missing or holds something else.
        """
        if self.kind == "text":
            return _read_text(row, self.field)
        if self.kind == "messages":
            name = MESSAGES if self.field == TEXT_FIELD else self.field
            value = _value(row, name)
            if _is_blank(value):
                return None
            messages, first = read_messages(_parsed(value), row.where), 0
        else:
            prompt, completion = _value(row, PROMPT), _value(row, COMPLETION)
            if _is_blank(prompt) or _is_blank(completion):
                return None
            before = _turns(prompt, "user", row.where)
            messages, first = [*before, *_turns(completion, "assistant", row.where)], len(before)
        if all(not str(message["content"]).strip() for message in messages):
            return None
        return Conversation(messages=messages, first_answer=first, tools=_tools(row), where=row.where)


def _read_text(row: Row, field: str) -> str | None:
    text = _value(row, field)
    if text is None:
        return None
    if not isinstance(text, str):
        raise DataError(f"field {field!r} must hold text, {row.where} holds a {type(text).__name__}")
    return text if text.strip() else None


def _value(row: Row, field: str) -> object:
    if field not in row.values:
        raise DataError(f"a record must have the field {field!r}, {row.where} has {', '.join(row.names) or 'none'}")
    return row.values[field]


def _is_blank(value: object) -> bool:
    return (
        value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, Sequence) and not value)
    )


def _turns(value: object, role: str, where: str) -> list[JsonObject]:
    parsed = _parsed(value)
    return [{"role": role, "content": parsed}] if isinstance(parsed, str) else read_messages(parsed, where)


def _parsed(value: object) -> object:
    """A list that a format without lists, as csv, holds as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            return parse_json(value)
        except JsonFaultError:
            return value
    return value


def _tools(row: Row) -> Sequence[object] | None:
    tools = row.values.get(TOOLS)
    if isinstance(tools, str) and tools.strip():
        try:
            tools = parse_json(tools)
        except JsonFaultError as error:
            raise DataError(f"tools must be a list or JSON text of one, that of {row.where} {error}") from error
    if not tools:
        return None
    if not isinstance(tools, Sequence) or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError(f"tools must be a list of objects, {row.where} holds a {type(tools).__name__}")
    return cast(Sequence[object], tools)
