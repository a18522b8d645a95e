"""Where in a rendered conversation its answers lie, whatever the chat template."""

from collections.abc import Sequence
from typing import TypeAlias

from minitron.artifacts.json_files import JsonObject
from minitron.data.chat_templates import ChatTemplate
from minitron.data.conversations import ASSISTANT, Conversation
from minitron.errors import DataError

# Contents of a turn in trial renderings: private characters, of which no text ends in both.
MARKS = ("\ue000", "\ue001")

Span: TypeAlias = tuple[int, int]


def answer_spans(template: ChatTemplate, conversation: Conversation, text: str) -> list[Span]:
    """Spans of characters [start, stop) of the answers in a rendered conversation, ascending.

    They are what the template marks by `{% generation %}`. In a template without marks a turn begins where the
    generation prompt ends that is rendered from the messages before it, and ends where the next message begins.

    Args:
        template: What rendered it.
        conversation: The conversation.
        text: Its rendering.

    Raises:
        DataError: The template writes history otherwise than as the beginning of what follows.
    """
    rendering = _Rendering(template, conversation, text)
    if template.marks_answers(conversation):
        prompt = rendering.prompt_chars()
        return [span for span in template.marked(conversation) if span[0] >= prompt]
    return [(rendering.start(turn), rendering.stop(turn)) for turn in conversation.answers]


class _Rendering:
    def __init__(self, template: ChatTemplate, conversation: Conversation, text: str) -> None:
        self._template, self._conversation, self._text = template, conversation, text

    def prompt_chars(self) -> int:
        """Characters of the prompt's messages, where answers could be confused with its turns; else 0."""
        first = self._conversation.first_answer
        if not any(message["role"] == ASSISTANT for message in self._conversation.messages[:first]):
            return 0
        prompt = self._before(first)
        if not self._text.startswith(prompt):
            raise self._unlike(first, prompt)
        return len(prompt)

    def start(self, turn: int) -> int:
        """Where an assistant's turn begins."""
        opening = self._before(turn, prompt=True)
        if self._text.startswith(opening):
            return len(opening)
        # A generation prompt may open a thought that a finished turn has no more: the turn begins where both part.
        history = self._before(turn)
        header = _common_start([opening, *(self._with_content(turn, mark) for mark in MARKS)])
        if len(header) <= len(history) or not header.startswith(history) or not self._text.startswith(header):
            raise self._unlike(turn, opening)
        return len(header)

    def stop(self, turn: int) -> int:
        """Where the message behind an assistant's turn begins."""
        upto = self._before(turn + 1)
        if self._text.startswith(upto):
            return len(upto)
        # The last turn keeps a thought that history has no more. What closes a turn is the same behind any content.
        after = _common_end([self._text, *(self._with_content(turn, mark) for mark in MARKS)])
        closing = _common_end([upto, *(self._with_content(turn, mark, last=True) for mark in MARKS)])
        if not after.startswith(closing):
            raise self._unlike(turn + 1, upto)
        return len(self._text) - len(after) + len(closing)

    def _before(self, turn: int, *, prompt: bool = False) -> str:
        return self._template.render(self._conversation, self._conversation.messages[:turn], prompt=prompt)

    def _with_content(self, turn: int, content: str, *, last: bool = False) -> str:
        messages = self._conversation.messages
        after = [] if last else messages[turn + 1 :]
        trial: list[JsonObject] = [*messages[:turn], {"role": ASSISTANT, "content": content}, *after]
        return self._template.render(self._conversation, trial)

    def _unlike(self, turn: int, prefix: str) -> DataError:
        at = len(_common_start([prefix, self._text]))
        return DataError(
            "a chat template must write the messages before an answer as the beginning of the whole, or mark answers "
            f"by {{% generation %}}; {self._conversation.where} differs before message {turn} at character {at}, "
            f"{prefix[at : at + 20]!r} against {self._text[at : at + 20]!r}; set loss: all, or give another template"
        )


def _common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)  # what these two begin with, all between them begin with
    return first[: next((at for at, character in enumerate(first) if last[at] != character), len(first))]


def _common_end(texts: Sequence[str]) -> str:
    return _common_start([text[::-1] for text in texts])[::-1]
