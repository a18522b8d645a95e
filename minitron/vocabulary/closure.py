"""What a token needs to be made: of BPE the pieces that are merged into it, step by step."""

from collections.abc import Callable
from itertools import pairwise

from minitron.vocabulary.tokenizer_file import TokenizerFile

Needs = Callable[[int], frozenset[int]]


def needs_of(file: TokenizerFile, vocab_size: int) -> Needs:
    """Gives a function: a token's id in, the ids out of what has to be kept with it, itself included.

    Ids from `vocab_size` on have no embedding and are left out.

    BPE merges the pair of the lowest rank, the leftmost one of several, until none is left. Inside of the characters
    that end as one token it goes through the same merges whatever lies beside them: a pair across the token's end that
    went before one of them would have been merged. So the pieces that the token's own text goes through are all that it
    ever needs. Pieces of Unigram and WordPiece are looked up whole.
    """
    if file.kind != "BPE":
        return lambda number: frozenset((number,))
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(file.merges)))}
    tokens = {number: token for token, number in file.ids.items()}

    def needs(number: int) -> frozenset[int]:
        if number not in tokens:  # one that was added
            return frozenset((number,))
        pieces = derivation(tokens[number], ranks)
        if tokens[number] not in pieces:  # made by no merge: it is found whole, or never
            return frozenset((number,))
        parts = (file.ids[piece] for piece in pieces if piece in file.ids)
        return frozenset(part for part in parts if part < vocab_size)

    return needs


def derivation(text: str, ranks: dict[tuple[str, str], int]) -> set[str]:
    """Every piece that BPE has in hand while it merges a text, its characters first.

    >>> sorted(derivation("then", {("h", "e"): 0, ("t", "he"): 1}))
    ['e', 'h', 'he', 'n', 't', 'the']
    """
    pieces = list(text)
    seen = set(pieces)
    while len(pieces) > 1:
        known = [(ranks[pair], at) for at, pair in enumerate(pairwise(pieces)) if pair in ranks]
        if not known:
            break
        _, at = min(known)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        seen.add(pieces[at])
    return seen
