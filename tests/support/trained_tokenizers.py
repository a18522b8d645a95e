"""Small tokenizers of every kind, trained on this repository's own pages and on other languages."""

import functools
import itertools
import json
from collections.abc import Callable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from minitron.vocabulary.languages import BUILT_IN
from tests.support.paths import ROOT

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
BYTES = [f"<0x{number:02X}>" for number in range(256)]
SPACE = "\u2581"


@functools.cache
def training_text() -> tuple[str, ...]:
    pages = sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "docs" / "guides").glob("*.md"))
    return (*(page.read_text() for page in pages), *BUILT_IN.values())


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])  # behind the model's own
    return tokenizer


def _every_split() -> Tokenizer:
    """As tokenizers that were made from tiktoken's: a token is merged from any two others that make it, words whole."""
    content = json.loads(_byte_level().to_str())
    vocabulary = content["model"]["vocab"]
    merges = []
    for token, _ in sorted(vocabulary.items(), key=lambda entry: entry[1]):
        splits = [(token[:at], token[at:]) for at in range(1, len(token))]
        known = [pair for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary and token not in SPECIAL]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    content["model"] |= {"merges": [list(pair) for pair in merges], "ignore_merges": True}
    return Tokenizer.from_str(json.dumps(content))


def _byte_fallback() -> Tokenizer:
    """As Llama 2, Mistral and Gemma have it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"(?={SPACE})"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=1800, special_tokens=[*SPECIAL, *BYTES], limit_alphabet=200, show_progress=False
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    return _without_added(tokenizer, BYTES)


def _unigram(*, byte_fallback: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = [*SPECIAL, *BYTES] if byte_fallback else SPECIAL
    trainer = trainers.UnigramTrainer(vocab_size=1600, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(training_text(), trainer)
    if not byte_fallback:
        return tokenizer
    content = json.loads(tokenizer.to_str())
    content["model"]["byte_fallback"] = True
    content["decoder"] = {
        "type": "Sequence",
        "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, content["decoder"]],
    }
    return _without_added(Tokenizer.from_str(json.dumps(content)), BYTES)


def _word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    return tokenizer


def _without_added(tokenizer: Tokenizer, tokens: list[str]) -> Tokenizer:
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [each for each in content["added_tokens"] if each["content"] not in tokens]
    return Tokenizer.from_str(json.dumps(content))


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": _byte_level,
    "every-split": _every_split,
    "byte-fallback": _byte_fallback,
    "unigram": lambda: _unigram(byte_fallback=False),
    "unigram-bytes": lambda: _unigram(byte_fallback=True),
    "word-piece": _word_piece,
}
# Kinds under which any text comes back as it was.
LOSSLESS = ("byte-level", "every-split", "byte-fallback", "unigram-bytes")


@functools.cache
def trained(kind: str) -> str:
    """The `tokenizer.json` of a kind."""
    found: str = MAKERS[kind]().to_str()
    return found


def fast_tokenizer(kind: str) -> Any:
    """It, as transformers has it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(trained(kind)),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )


def vocab_size(kind: str) -> int:
    """Its tokens."""
    size: int = Tokenizer.from_str(trained(kind)).get_vocab_size(with_added_tokens=True)
    return size


def words() -> list[str]:
    """Words of the text that they were trained on."""
    return sorted(set(itertools.chain.from_iterable(text.split() for text in training_text())))
