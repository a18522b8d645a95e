"""Conversations: messages of roles, as a chat template takes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from minitron.artifacts.json_files import JsonObject
from minitron.errors import DataError

ASSISTANT = "assistant"
# Fields of a message that hold what was thought before its content; transformers gives each under the other's name.
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One conversation.

    Attributes:
        messages: Each with `role` and `content`, and whatever else a template may read.
        first_answer: Messages before this one are a prompt, whose assistant turns are no answers.
        tools: Tools that the template may list.
        where: Where it is stored, for messages.
    """

    messages: Sequence[JsonObject]
    first_answer: int = 0
    tools: Sequence[object] | None = None
    where: str = field(compare=False)

    @property
    def text(self) -> str:
        """The same text for the same conversation, wherever it is stored."""
        found = {"messages": self.messages, "first_answer": self.first_answer, "tools": self.tools}
        return json.dumps(found, sort_keys=True, ensure_ascii=False)

    def __len__(self) -> int:
        return sum(len(str(value)) for message in self.messages for value in message.values())

    @property
    def answers(self) -> list[int]:
        """Positions of the assistant's turns that are answers."""
        return [
            number
            for number, message in enumerate(self.messages)
            if number >= self.first_answer and message["role"] == ASSISTANT
        ]


# What packing takes: text, or a conversation that a chat template makes text.
Document: TypeAlias = str | Conversation


def read_messages(value: object, where: str) -> list[JsonObject]:
    """Messages as a record holds them, each content one text.

    Raises:
        DataError: They are no list of messages of text.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise DataError(f"messages must be a list of objects with role and content, {where} holds {_kind(value)}")
    return [_read_message(message, f"{where} message {number}") for number, message in enumerate(value)]


def _read_message(message: object, where: str) -> JsonObject:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        fields = ", ".join(message) if isinstance(message, Mapping) else _kind(message)
        raise DataError(f"a message must have a role and content, {where} has {fields}; rename its fields")
    found: JsonObject = {name: value for name, value in message.items() if value is not None}
    content = message.get("content")
    if content is None:
        # A call of a tool or a trace alone; templates read the content of every message.
        if not any(found.get(name) for name in ("tool_calls", *REASONING_FIELDS)):
            raise DataError(f"a message must have content, {where} has {', '.join(found)}")
        return found | {"content": ""}
    return found | {"content": content if isinstance(content, str) else _join_parts(content, where)}


def _join_parts(content: object, where: str) -> str:
    if not isinstance(content, Sequence):
        raise DataError(f"content must be text or a list of parts, {where} holds {_kind(content)}")
    texts: list[str] = []
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind != "text" or not isinstance(text, str):
            raise DataError(f"a part of content must be of type text, {where} has one of type {kind}")
        texts.append(text)
    return "".join(texts)


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
