"""The worst queries, against a sorted list, and as offline reads them."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from offline.data.query_log import read_query_log
from service.worst import MAX_CHARACTERS, Disagreement, WorstQueries, write_worst


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


def kept(path: Path) -> list[tuple[str, float, str]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [(row["query"], row["cosine"], row["snapshot"]) for row in rows]


def found(snapshot: str, **cosines: float) -> str:
    worst = WorstQueries(10)
    for query, cosine in cosines.items():
        worst.offer(Disagreement(cosine, query, 0.5))
    return worst.jsonl(snapshot)


def test_a_file_keeps_the_worst_of_all_snapshots_and_the_latest_figure_of_a_query(tmp_path: Path) -> None:
    path = tmp_path / "worst.jsonl"
    write_worst(path, found("one", a=0.1, b=0.3, c=0.5), 3)
    write_worst(path, found("two", a=0.4, d=0.2, e=0.9), 3)
    assert kept(path) == [("d", 0.2, "two"), ("b", 0.3, "one"), ("a", 0.4, "two")]
    assert read_query_log(path) == ["d", "b", "a"]


def test_what_is_not_of_ours_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "worst.jsonl"
    ours = '{"query": "\u2028", "cosine": 0.5, "overlap": 0.0, "snapshot": "one"}\n'
    strange = [
        "no json",
        "[]",
        "7",
        '{"query": 7, "cosine": 0.1}',
        '{"query": "x"}',
        '{"query": "x", "cosine": null}',
        '{"query":',
    ]
    path.write_bytes(ours.encode() + b"\xff\n" + "\n".join(strange).encode())
    write_worst(path, found("two", a=0.1), 3)
    assert kept(path) == [("a", 0.1, "two"), ("\u2028", 0.5, "one")]


def test_what_users_typed_is_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "worst.jsonl"
    path.touch(0o644)
    write_worst(path, found("one", a=0.1), 3)
    assert path.stat().st_mode & 0o777 == 0o600
