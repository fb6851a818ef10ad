from collections import Counter

import numpy as np
import pytest

from offline.variants import KINDS, make_variant, vary

TEXT = "Rebase the current branch on top of another"
DRAWS = 50


def draw(text, kind):
    return {make_variant(text, kind, np.random.default_rng(seed)) for seed in range(DRAWS)}


def distance(first: str, second: str) -> int:
    """Damerau-Levenshtein with adjacent swaps, by the textbook's table."""
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    table[:, 0], table[0] = range(len(first) + 1), range(len(second) + 1)
    for i, a in enumerate(first, 1):
        for j, b in enumerate(second, 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and b == first[i - 2]:
                table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return int(table[-1, -1])


def test_a_typo_is_one_slip_in_a_word_of_four_letters_or_more():
    typos = draw(TEXT, "typo")
    assert {distance(TEXT, typo) for typo in typos} == {1}
    assert len(typos) > DRAWS / 4
    for typo in typos:
        changed = [word for word in TEXT.split() if word not in typo.split()]
        assert len(changed) == 1
        assert len(changed[0]) >= 4


def test_typos_keep_the_first_letter():
    assert all(typo.startswith("g") for typo in draw("grep", "typo"))


@pytest.mark.parametrize("text", ["ls -l", "a b c d", "1234 5678", ""])
def test_short_words_and_numbers_get_no_typo(text):
    assert draw(text, "typo") == {text}


def test_letters_beyond_latin_get_typos_too():
    assert {distance("котики", typo) for typo in draw("котики", "typo")} == {1}


def test_another_case_is_the_same_text():
    assert draw("Sort Lines", "case") == {"sort lines", "SORT LINES"}
    assert draw("123", "case") == {"123"}


def test_another_order_has_the_same_words():
    for text in draw(TEXT, "order"):
        assert text != TEXT
        assert Counter(text.split()) == Counter(TEXT.split())
    assert draw("two words", "order") == {"words two"}
    assert draw("one", "order") == {"one"}
    assert draw("same same", "order") == {"same same"}


def test_one_word_is_dropped_of_three_or_more():
    assert draw("print disk usage", "drop") == {"disk usage", "print usage", "print disk"}
    assert draw("disk usage", "drop") == {"disk usage"}


def test_variants_follow_from_text_and_seed_alone():
    texts = [f"print the usage of disk {number}" for number in range(20)]
    varied = vary(texts, seed=3)
    assert vary(texts[::-1], seed=3) == varied[::-1]
    assert vary(texts, seed=4) != varied
    assert all(before != after for before, after in zip(texts, varied, strict=True))


def test_a_kind_that_cannot_change_the_text_gives_way_to_another():
    assert {vary(["ls"], seed=seed)[0] for seed in range(20)} == {"LS", "Ls"}
    assert vary(["42"], seed=1) == ["42"]


def test_only_the_kinds_asked_for_are_drawn():
    assert vary(["disk usage"], seed=0, kinds=["order"]) == ["usage disk"]
    assert vary(["disk usage"], seed=0, kinds=["drop"]) == ["disk usage"]
    assert {len(vary([TEXT], seed=seed, kinds=["drop"])[0].split()) for seed in range(9)} == {len(TEXT.split()) - 1}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_any_text(kind):
    for text in ("", " ", "  two  spaces ", "ß", "\ud800", "🙂 🙂 wörd"):
        assert isinstance(make_variant(text, kind, np.random.default_rng(0)), str)
