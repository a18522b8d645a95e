"""Which tokens are kept, by hand, and how the text's are counted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minitron.data.sources import TextSource
from minitron.errors import MinitronError
from minitron.recipe.load import make_section
from minitron.recipe.prune import VocabularySection
from minitron.vocabulary.closure import derivation, needs_of
from minitron.vocabulary.counting import count_tokens, template_ids
from minitron.vocabulary.rewriting import with_new_ids
from minitron.vocabulary.selection import required_ids, select_tokens
from minitron.vocabulary.settings import VocabularySettings
from minitron.vocabulary.tokenizer_file import TokenizerFile, parse_tokenizer_file
from tests.support.models import make_tokenizer
from tests.support.trained_tokenizers import fast_tokenizer

# Characters that are no bytes, so that single ones are the base; 12 and 13 are rows that no token has.
TOKENS = ["<s>", "t", "h", "e", "n", "th", "he", "the", "then", "en", "hen", "nt"]
MERGES = [["t", "h"], ["h", "e"], ["th", "e"], ["the", "n"], ["e", "n"], ["h", "en"], ["n", "t"]]
ROWS = 14


def by_hand() -> TokenizerFile:
    content = {
        "model": {"type": "BPE", "vocab": {token: n for n, token in enumerate(TOKENS)}, "merges": MERGES},
        "added_tokens": [{"id": 0, "content": "<s>"}],
    }
    return parse_tokenizer_file(content, "by hand")


def kept(**settings: object) -> list[str | None]:
    """Tokens that are kept where `then` is the most frequent one, then `nt`, `hen`, `en`."""
    file, counts_V = by_hand(), np.zeros(ROWS, dtype=np.int64)
    for token, count in (("then", 50), ("nt", 30), ("hen", 15), ("en", 5)):
        counts_V[TOKENS.index(token)] = count
    required = required_ids(file, ROWS)
    found = select_tokens(
        counts_V, file, required, VocabularySettings.model_validate({"multiple_of": 1, **settings})
    ).tolist()
    return [TOKENS[number] if number < len(TOKENS) else None for number in found]


BASE = ["<s>", "t", "h", "e", "n"]


def test_a_token_brings_what_it_is_merged_from_by_the_merges_that_go_first() -> None:
    needs = needs_of(by_hand(), ROWS)
    assert {TOKENS[number] for number in needs(TOKENS.index("then"))} == {"t", "h", "e", "n", "th", "the", "then"}
    # "hen" is merged from "h" and "en", but the pair of "h" and "e" goes first: it is never made.
    assert needs(TOKENS.index("hen")) == {TOKENS.index("hen")}
    assert needs(0) == {0}


def test_the_leftmost_of_equal_pairs_goes_first() -> None:
    assert derivation("aaa", {("a", "a"): 0, ("aa", "a"): 1, ("a", "aa"): 2}) == {"a", "aa", "aaa"}
    assert derivation("", {}) == set()


def test_a_size_takes_the_most_frequent_ones_with_what_they_need() -> None:
    assert kept(size=8) == [*BASE, "th", "the", "then"]
    assert kept(size=9) == [*BASE, "th", "the", "then", "nt"]


def test_what_does_not_fit_with_its_parts_makes_room_for_the_next() -> None:
    assert kept(size=7) == [*BASE, "hen", "nt"]


def test_rows_without_a_token_come_last() -> None:
    assert kept(size=13) == [*TOKENS, None]


def test_a_row_that_a_configuration_names_and_no_token_has_comes_last_too() -> None:
    file, counts_V = by_hand(), np.zeros(ROWS, dtype=np.int64)
    holed = replace(file, ids={token: number for token, number in file.ids.items() if token != "th"})
    required = required_ids(holed, ROWS, named=[5, 99])
    found = select_tokens(counts_V, holed, required, VocabularySettings(size=7, multiple_of=1)).tolist()
    assert found == [0, 1, 2, 3, 4, 6, 5]


def test_a_coverage_takes_the_fewest_that_reach_it() -> None:
    assert kept(coverage=0.8) == [*BASE, "th", "the", "then", "nt"]
    assert kept(coverage=0.81) == [*BASE, "th", "the", "then", "hen", "nt"]
    assert kept(coverage=1) == [*BASE, "th", "the", "then", "en", "hen", "nt"]
    # Filled up with the next most frequent one.
    assert kept(coverage=0.8, multiple_of=10) == [*BASE, "th", "the", "then", "hen", "nt"]


def test_a_least_count_takes_all_that_occur_so_often() -> None:
    assert kept(min_count=30) == [*BASE, "th", "the", "then", "nt"]


@pytest.mark.parametrize(("size", "said"), [(4, "at least the 5 tokens"), (15, "at most the model's 14")])
def test_sizes_that_are_not_possible_are_refused(size: int, said: str) -> None:
    with pytest.raises(MinitronError, match=said):
        kept(size=size)


@pytest.mark.parametrize(
    "settings",
    [{}, {"size": 64, "coverage": 0.5}, {"size": 100}, {"coverage": 0}, {"min_count": 0}, {"size": 64, "max": 3}],
)
def test_settings_that_do_not_say_one_number_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(MinitronError):
        make_section(VocabularySection, settings)


def test_every_token_of_every_source_is_counted_once(tmp_path: Path) -> None:
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("aab")
    other.write_text("b\n---\nc")
    tokenizer = make_tokenizer()
    sources = [TextSource(path=str(one), weight=0.9), TextSource(path=str(other), weight=0.1)]
    counts = count_tokens(sources, tokenizer, 271, tokens=None, seed=0)
    found = {token: int(counts.counts_V[tokenizer.convert_tokens_to_ids(token)]) for token in ("a", "b", "c", "</s>")}
    assert found == {"a": 2, "b": 2, "c": 1, "</s>": 3}
    assert counts.samples == {str(one): "aab", str(other): "b\nc"}


def test_a_number_of_tokens_is_shared_by_weight(tmp_path: Path) -> None:
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("\n---\n".join(["a" * 9] * 50))
    other.write_text("\n---\n".join(["b" * 9] * 50))
    tokenizer = make_tokenizer()
    sources = [TextSource(path=str(one), weight=0.75), TextSource(path=str(other), weight=0.25)]
    counts = count_tokens(sources, tokenizer, 271, tokens=200, seed=0).counts_V
    assert counts.sum() == 200
    shares = [int(counts[tokenizer.convert_tokens_to_ids(token)]) for token in "ab"]
    assert shares == [135, 45]


def test_prompts_and_the_template_of_conversations_count(tmp_path: Path) -> None:
    path, template = tmp_path / "chat.jsonl", tmp_path / "chat.jinja"
    talk = [{"role": "user", "content": "qqq"}, {"role": "assistant", "content": "z"}]
    path.write_text(json.dumps({"messages": talk}))
    template.write_text("{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}")
    tokenizer = make_tokenizer()
    source = TextSource(path=str(path), chat_template=str(template))
    counts_V = count_tokens([source], tokenizer, 271, tokens=None, seed=0).counts_V
    assert [int(counts_V[tokenizer.convert_tokens_to_ids(token)]) for token in "q[z"] == [3, 2, 1]


def test_marks_of_a_conversation_are_kept_whole() -> None:
    tokenizer = fast_tokenizer("byte-level")
    plain = template_ids(tokenizer)
    tokenizer.chat_template = "{% for message in messages %}<|im_start|>{{ message.content }} checkpoint{% endfor %}"
    found = template_ids(tokenizer) - plain
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") in found
    assert set(tokenizer(" checkpoint", add_special_tokens=False)["input_ids"]) <= found | plain


def test_ids_are_renumbered_wherever_a_configuration_names_one() -> None:
    before = {
        "text_config": {"image_token_id": 5, "vocab_size": 5},
        "eos_token_id": [2, 9],
        "bad_words_ids": [[2, 5], [9]],
        "suppress_tokens": None,
        "max_new_tokens": 5,
        "num_hidden_layers": 2,
    }
    assert with_new_ids(before, {2: 0, 5: 1}) == {
        "text_config": {"image_token_id": 1, "vocab_size": 5},
        "eos_token_id": [0],
        "bad_words_ids": [[0, 1], []],
        "suppress_tokens": None,
        "max_new_tokens": 5,
        "num_hidden_layers": 2,
    }
