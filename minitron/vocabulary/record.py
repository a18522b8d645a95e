"""What a cut of the vocabulary did, as its record in a file says it."""

from dataclasses import dataclass

from minitron.vocabulary.languages import TextLength


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyRecord:
    """A cut of the vocabulary.

    Attributes:
        before: Rows of the embeddings.
        after: Rows that are kept.
        required: Tokens that are kept whatever the text holds.
        counted_tokens: Tokens of the text.
        coverage: Share of them that are kept; the others fall apart into smaller ones.
        params_before: Parameters.
        params_after: Parameters that are left.
        lengths: Lengths of the text and of other languages, in tokens of both vocabularies.
    """

    before: int
    after: int
    required: int
    counted_tokens: int
    coverage: float
    params_before: int
    params_after: int
    lengths: tuple[TextLength, ...]
