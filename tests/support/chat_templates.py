"""Chat templates made in different ways, each beside its rendering in Python: pieces of text, answers or not."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

Messages = Sequence[dict[str, Any]]
Pieces = list[tuple[str, bool]]
BOS, EOS = "<s>", "</s>"
DEFAULT_SYSTEM = "You are kind."

_TURN = "<|im_start|>{{ m['role'] }}\n"
_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = "{% for m in messages %}" + _TURN + "{{ m['content'] }}<|im_end|>\n{% endfor %}" + _PROMPT
MARKED = (
    "{% for m in messages %}" + _TURN + "{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}" + _PROMPT
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] ~ '\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ (system if loop.first else '') ~ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n{% endif %}" + CHATML
)
SPACED = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# The history of a turn is written without its thought, and a generation prompt opens one.
THINKING = (
    "{% set last = namespace(user=-1) %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}" + _TURN + "{% if m['role'] == 'assistant' and loop.index0 < last.user %}"
    "{{ m['content'].split('</think>')[-1] }}{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)


def _chatml(messages: Messages, close: str = "<|im_end|>\n", rest: str = "") -> Pieces:
    pieces: Pieces = []
    for message in messages:
        answer = message["role"] == "assistant"
        pieces += [(f"<|im_start|>{message['role']}\n", False), (message["content"] + close, answer), (rest, False)]
    return pieces


def _llama(messages: Messages) -> Pieces:
    pieces: Pieces = [(BOS, False)]
    for message in messages:
        answer = message["role"] == "assistant"
        pieces.append((f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n", False))
        pieces.append((message["content"].strip() + "<|eot_id|>", answer))
    return pieces


def _mistral(messages: Messages) -> Pieces:
    pieces, system = [(BOS, False)], ""
    for message in messages:
        if message["role"] == "system":
            system = message["content"] + "\n\n"
        elif message["role"] == "user":
            pieces.append((f"[INST] {system}{message['content']} [/INST]", False))
            system = ""
        else:
            pieces.append((f" {message['content']}{EOS}", True))
    return pieces


def _default(messages: Messages) -> Pieces:
    if messages[0]["role"] == "system":
        return _chatml(messages)
    return [(f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n", False), *_chatml(messages)]


def _spaced(messages: Messages) -> Pieces:
    pieces: Pieces = []
    for message in messages:
        pieces += [(f"{message['role']}: ", False), (message["content"] + "\n", message["role"] == "assistant")]
    return pieces


def _thinking(messages: Messages) -> Pieces:
    pieces: Pieces = []
    last = max(number for number, message in enumerate(messages) if message["role"] == "user")
    for number, message in enumerate(messages):
        content, header = message["content"], f"<|im_start|>{message['role']}\n"
        if message["role"] == "assistant":
            if number < last:
                content = content.split("</think>")[-1]
            if content.startswith("<think>"):  # what the generation prompt wrote is no answer
                header, content = header + "<think>", content.removeprefix("<think>")
        pieces += [(header, False), (f"{content}<|im_end|>\n", message["role"] == "assistant")]
    return pieces


@dataclass(frozen=True, slots=True)
class Made:
    """A template, and its rendering in pieces."""

    jinja: str
    pieces: Callable[[Messages], Pieces]


TEMPLATES = {
    "chatml": Made(CHATML, _chatml),
    "llama": Made(LLAMA, _llama),
    "mistral": Made(MISTRAL, _mistral),
    "marked": Made(MARKED, lambda messages: _chatml(messages, "<|im_end|>", "\n")),
    "default system": Made(DEFAULT, _default),
    "spaced": Made(SPACED, _spaced),
    "thinking": Made(THINKING, _thinking),
}


@functools.cache
def make_chat_tokenizer(*, adds: str = "", vocab_size: int = 420) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose tokens cross from a prompt into its answer, and back.

    Args:
        adds: Special tokens that its post-processor puts around text: any of `bos` and `eos`.
        vocab_size: Its tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    roles = ("user", "assistant") * 2
    chats = [list(zip(roles, (f"a{i} b", f" b{i} a\n", "ab", "b a"), strict=True)) for i in range(40)]
    texts = [
        "".join(text for text, _ in made.pieces([{"role": role, "content": content} for role, content in chat]))
        for made in TEMPLATES.values()
        for chat in chats
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.replace(BOS, "").replace(EOS, "") for text in texts], trainer)
    single = f"{f'{BOS} ' if 'bos' in adds else ''}$A{f' {EOS}' if 'eos' in adds else ''}"
    steps: list[Any] = [processors.ByteLevel(trim_offsets=True)]
    if adds:
        steps.append(processors.TemplateProcessing(single=single, special_tokens=[(BOS, 1), (EOS, 2)]))
    tokenizer.post_processor = processors.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token=BOS, eos_token=EOS)


def first_characters(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text of tokens and where in it each begins, by their bytes alone: no offsets are asked for."""
    special = {1: BOS.encode(), 2: EOS.encode()}
    byte_of = {character: byte for byte, character in _byte_characters().items()}
    parts = [
        special.get(token) or bytes(byte_of[character] for character in tokenizer.convert_ids_to_tokens(token))
        for token in ids
    ]
    whole, starts, at = b"".join(parts), [], 0
    for part in parts:
        # A token within a character begins at it: bytes that continue one are 10xxxxxx.
        start = at
        while start and whole[start] & 0xC0 == 0x80:
            start -= 1
        starts.append(len(whole[:start].decode()))
        at += len(part)
    return whole.decode(), starts


def _byte_characters() -> dict[int, str]:
    """The character that stands for each byte in GPT-2's alphabet, by its definition."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + number) for number, byte in enumerate(others)}
