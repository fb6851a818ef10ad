"""The worst queries, against a sorted list, and as offline reads them."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from offline.data.query_log import read_query_log
from service.worst import MAX_CHARACTERS, Disagreement, WorstQueries


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=5), st.floats(-1, 1), max_size=40))
def test_the_worst_are_kept_whatever_the_order(cosines: dict[str, float]) -> None:
    worst = WorstQueries(5)
    for query, cosine in cosines.items():
        worst.offer(Disagreement(cosine, query, 0.5))
    expected = sorted(cosine for query, cosine in cosines.items() if query.strip())[:5]
    assert [row.cosine for row in worst.worst_first()] == expected
    assert all(cosines[row.query] == row.cosine for row in worst.worst_first())


def test_a_query_is_kept_once_and_a_huge_one_not() -> None:
    worst = WorstQueries(2)
    assert worst.offer(Disagreement(0.5, "a", 0.0))
    assert not worst.offer(Disagreement(0.5, "a", 0.0))
    assert not worst.offer(Disagreement(-1.0, "b" * (MAX_CHARACTERS + 1), 0.0))
    assert not WorstQueries(0).offer(Disagreement(-1.0, "c", 0.0))
    assert len(worst) == 1


def test_offline_reads_them_as_a_query_log(tmp_path: Path) -> None:
    queries = ["plain", 'with "quotes"', "two\nlines", "\u2028 and £ and 漢字", "x" * MAX_CHARACTERS]
    worst = WorstQueries(10)
    for number, query in enumerate(queries):
        worst.offer(Disagreement(number / 10, query, 0.25))
    path = tmp_path / "worst.jsonl"
    path.write_text(worst.jsonl("a-snapshot"), encoding="utf-8")
    assert read_query_log(path) == queries
