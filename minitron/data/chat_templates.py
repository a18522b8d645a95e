"""Chat templates: a conversation as text."""

import logging
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from minitron.artifacts.json_files import JsonObject
from minitron.data.conversations import REASONING_FIELDS, Conversation
from minitron.data.tokenizer import ChatTokenizer
from minitron.errors import DataError

logger = logging.getLogger(__name__)

GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
READS_REASONING = re.compile(rf"\b({'|'.join(REASONING_FIELDS)})\b")


class ChatTemplate:
    """A tokenizer's chat template, or one given instead of it.

    Args:
        tokenizer: The tokenizer, whose special tokens the template may name.
        template: The template's text; the tokenizer's own when None.
    """

    def __init__(self, tokenizer: ChatTokenizer, template: str | None = None) -> None:
        self._tokenizer, self._template = tokenizer, template

    def render(
        self, conversation: Conversation, messages: Sequence[JsonObject] | None = None, *, prompt: bool = False
    ) -> str:
        """A conversation as text.

        Args:
            conversation: The conversation.
            messages: Render these of it; all when None.
            prompt: Close with the generation prompt.

        Raises:
            DataError: There is no template, or it refuses the conversation.
        """
        shown = conversation.messages if messages is None else messages
        (text,), _ = self._call(conversation, shown, add_generation_prompt=prompt)
        return str(text)

    def marks_answers(self, conversation: Conversation) -> bool:
        """Whether the template marks answers by `{% generation %}`."""
        return GENERATION_TAG.search(self._text(conversation)) is not None

    def marked(self, conversation: Conversation) -> list[tuple[int, int]]:
        """Spans of characters that the template marks in the whole rendering."""
        _, (spans,) = self._call(conversation, conversation.messages, return_assistant_tokens_mask=True)
        return [(start, stop) for start, stop in spans]

    def warn_of_lost_reasoning(self, conversation: Conversation) -> None:
        """Warns, once for a template, where a trace that is apart from the content is read by nobody."""
        traced = any(message.get(name) for message in conversation.messages for name in REASONING_FIELDS)
        if traced and not READS_REASONING.search(text := self._text(conversation)):
            _warn_of_lost_reasoning(text)

    def _text(self, conversation: Conversation) -> str:
        try:
            # Tokenizers of transformers may have a template for tools beside the usual one.
            return self._tokenizer.get_chat_template(self._template, conversation.tools)
        except ValueError as error:
            raise DataError(
                f"conversations need a chat template, the tokenizer {self._tokenizer.name_or_path} has none; set "
                "chat_template on the source to a file of one, or save one as chat_template.jinja beside the tokenizer"
            ) from error

    def _call(self, conversation: Conversation, messages: Sequence[JsonObject], **options: bool) -> Any:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        text = self._text(conversation)
        tools: Any = None if conversation.tools is None else list(conversation.tools)
        given = dict(self._tokenizer.special_tokens_map)
        try:
            return render_jinja_template([list(messages)], tools, chat_template=text, **options, **given)
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError(
                f"the chat template must take every conversation, it refuses {conversation.where}: {error}; mend the "
                "record, or the template"
            ) from error


@cache
def _warn_of_lost_reasoning(template: str) -> None:
    logger.warning(
        "the chat template reads none of %s: traces that records hold there are left out; put them into the content, "
        "or give a template that reads them",
        ", ".join(REASONING_FIELDS),
    )
