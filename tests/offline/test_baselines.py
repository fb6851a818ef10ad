"""Oracle: the BM25 formula with Lucene's idf, written out by hand."""

from math import log

import numpy as np
import pytest

from offline.baselines import Bm25

TITLES = ["join", "", "copy"]
TEXTS = ["two paths together", "splits a path", "the file to another folder"]


def term(frequency, length, mean_length, documents_with_term, documents=3):
    idf = log(1 + (documents - documents_with_term + 0.5) / (documents_with_term + 0.5))
    return idf * frequency / (frequency + 1.2 * (1 - 0.75 + 0.75 * length / mean_length))


def test_scores_are_the_formula():
    # Tokens after stop words and stemming: join two path togeth | split path | copi file anoth folder
    mean_length = (4 + 2 + 4) / 3
    path = [term(1, 4, mean_length, 2), term(1, 2, mean_length, 2), 0]
    join = [term(1, 4, mean_length, 1), 0, 0]
    scores = Bm25(TITLES, TEXTS).scores("joining paths")
    assert scores == pytest.approx(np.add(path, join), rel=1e-5)


def test_ranking_is_by_score_and_filled_up():
    assert Bm25(TITLES, TEXTS).rank(["a path", "joined path", "zebra", "the"], k=3).tolist() == [
        [1, 0, -1],
        [0, 1, -1],
        [-1, -1, -1],
        [-1, -1, -1],
    ]


@pytest.mark.parametrize(
    ("texts", "query"),
    [
        (["东京的天气很好", "北京烤鸭的做法", "how to cook"], "烤鸭怎么做"),
        (["東京は日本の首都です", "お茶の入れ方を説明します", "how to cook"], "お茶を入れる"),
        (["อากาศวันนี้ดีมาก", "วิธีทำต้มยำกุ้ง", "how to cook"], "ต้มยำทำยังไง"),
    ],
)
def test_scripts_without_spaces_match_by_pairs_of_characters(texts, query):
    assert Bm25([""] * 3, texts).rank([query], k=3).tolist()[0][0] == 1
    assert Bm25([""] * 3, texts).rank(["cooking"], k=3).tolist() == [[2, -1, -1]]


def test_ties_go_to_the_lower_row():
    assert Bm25(["", "", ""], ["red cup", "red cup", "red cup"]).rank(["cup"], k=2).tolist() == [[0, 1]]


def test_a_corpus_of_stop_words_matches_nothing():
    assert Bm25(["the"], ["of and"]).rank(["the thing"], k=2).tolist() == [[-1, -1]]
