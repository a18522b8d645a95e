"""What a cut vocabulary costs text that it was not cut for: tokens a character, before and after, by language."""

# ruff: noqa: RUF001 - letters of other scripts are meant

from collections.abc import Mapping
from dataclasses import dataclass

from minitron.data.tokenizer import Tokenizer

# A few sentences each (Universal Declaration of Human Rights, article 1), a program and numbers.
BUILT_IN: Mapping[str, str] = {
    "English": "All human beings are born free and equal in dignity and rights. They are endowed with reason and "
    "conscience and should act towards one another in a spirit of brotherhood.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen "
    "begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
    "French": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison "
    "et de conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
    "Spanish": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y "
    "conciencia, deben comportarse fraternalmente los unos con los otros.",
    "Russian": "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "Greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "Arabic": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "Chinese": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。",
    "Japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "Korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "Python": "def mean(values: list[float]) -> float:\n    total = 0.0\n    for value in values:\n"
    "        total += value\n    return total / len(values) if values else 0.0\n",
    "numbers": "3.14159 + 2.71828 = 5.85987; 17 * 23 = 391; 1,048,576 bytes; 2026-11-27 14:05:33",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLength:
    """A text's length in tokens under two tokenizers.

    Attributes:
        text: What it is: a source, or a language.
        characters: Its length.
        before: Tokens of the whole vocabulary.
        after: Tokens of the cut one.
    """

    text: str
    characters: int
    before: int
    after: int


def compare_lengths(samples: Mapping[str, str], before: Tokenizer, after: Tokenizer) -> tuple[TextLength, ...]:
    """Lengths of texts and of sentences in a dozen languages under two tokenizers, special tokens left out."""
    texts = {**samples, **BUILT_IN}
    lengths = (_lengths([*texts.values()], tokenizer) for tokenizer in (before, after))
    return tuple(
        TextLength(text=name, characters=len(texts[name]), before=one, after=other)
        for name, one, other in zip(texts, *lengths, strict=True)
    )


def _lengths(texts: list[str], tokenizer: Tokenizer) -> list[int]:
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False, return_attention_mask=False)
    return [len(ids) for ids in encoded["input_ids"]]
