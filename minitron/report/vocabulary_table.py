"""Table of a cut vocabulary: what is kept, and how long texts are in tokens before and after."""

from rich.table import Table

from minitron.vocabulary.record import VocabularyRecord


def vocabulary_table(record: VocabularyRecord) -> Table:
    """Tokens a character of the text that was counted and of other languages, before and after."""
    title = (
        f"{record.after:,} of {record.before:,} tokens are kept, {record.coverage:.4%} of the text's "
        f"{record.counted_tokens:,}; {record.params_after:,} of {record.params_before:,} parameters"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("tokens a character")
    for column in ("before", "after", "after / before"):
        table.add_column(column, justify="right")
    for length in record.lengths:
        before, after = (tokens / max(1, length.characters) for tokens in (length.before, length.after))
        table.add_row(length.text, f"{before:.3f}", f"{after:.3f}", f"{length.after / max(1, length.before):.2f}")
    return table
