import pytest

from offline.data.unspaced import bigrams, count_words, joined


@pytest.mark.parametrize(
    ("text", "cut", "words"),
    [
        ("plain words, naïve", "plain words, naïve", 3),
        ("日本語", "日本 本語", 2),
        ("茶", "茶", 1),
        ("Python入門 2024年", "Python 入門 2024 年", 4),
        ("ดีมาก", "ดี ีม มา าก", 3),
        ("학교에서 배운", "학교 교에 에서 배운", 3),
    ],
)
def test_runs_without_spaces_are_cut_into_pairs(text: str, cut: str, words: int) -> None:
    assert bigrams(text).split() == cut.split()
    assert count_words(text) == words


@pytest.mark.parametrize("text", ["日本語 Python 入門", "学校 a b", "茶", "학교에서 배운", "plain words", "aa ab"])
def test_pairs_that_overlap_are_put_together_again(text: str) -> None:
    assert joined(bigrams(text).split()) == text
