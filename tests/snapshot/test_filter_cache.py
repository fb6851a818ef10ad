"""The cache of filters: what it keeps, what it forgets, and that it never gives what another filter selects."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest

from snapshot.documents import Documents, document_field
from snapshot.filters import parse_filter
from snapshot.selection import Selection

ROWS = 4096
SCHEMA = pa.schema(
    [pa.field("id", pa.string())]
    + [
        document_field(name, kind, filterable=True)
        for name, kind in (("kind", "string"), ("year", "integer"), ("sold", "boolean"))
    ]
)
KINDS = ("book", "tool", "toy")


def make_documents(capacity: int) -> Documents:
    columns = {
        "id": [str(row) for row in range(ROWS)],
        "kind": [KINDS[row % 3] for row in range(ROWS)],
        "year": list(range(ROWS)),
        "sold": [row % 2 == 0 for row in range(ROWS)],
    }
    return Documents(pa.table(columns, schema=SCHEMA), capacity)


def select(documents: Documents, raw: dict[str, Any], **options: Any) -> Selection:
    return documents.select(parse_filter(raw, documents.columns), **options)


def test_an_equal_filter_is_not_computed_again() -> None:
    documents = make_documents(1 << 20)
    first = select(documents, {"kind": "book", "year": {"$lt": 50}})
    assert select(documents, {"kind": "book", "year": {"$lt": 50}}) is first
    stats = documents.filter_stats()
    assert (stats.hits, stats.misses, stats.entries) == (1, 3, 3)
    assert stats.bytes >= 3 * first.nbytes


def test_a_condition_is_shared_by_filters() -> None:
    documents = make_documents(1 << 20)
    for other in (10, 20, 30):
        found = select(documents, {"kind": {"$ne": "book"}, "year": {"$lt": other}})
        assert found.rows().tolist() == [row for row in range(other) if row % 3]
    stats = documents.filter_stats()
    assert (stats.hits, stats.misses) == (2, 3 + 4)


def test_without_room_everything_is_computed() -> None:
    documents = make_documents(0)
    for _ in range(2):
        assert select(documents, {"kind": "toy"}).count == ROWS // 3
    stats = documents.filter_stats()
    assert (stats.hits, stats.misses, stats.entries, stats.bytes) == (0, 2, 0, 0)


def test_what_was_used_longest_ago_goes_first() -> None:
    documents = make_documents(3 * 2048)
    for bound in (100, 200, 300, 100, 400):
        select(documents, {"year": {"$gte": bound}})
    assert documents.filter_stats().entries == 3
    assert documents.filter_stats().bytes <= 3 * 2048
    before = documents.filter_stats()
    select(documents, {"year": {"$gte": 100}})
    assert documents.filter_stats().hits == before.hits + 1
    select(documents, {"year": {"$gte": 200}})
    assert documents.filter_stats().misses == before.misses + 1


def test_long_lists_are_charged_for() -> None:
    documents = make_documents(1 << 20)
    for start in range(0, 100_000, 1000):
        assert select(documents, {"year": {"$in": [*range(start, start + 1000)]}}).count == min(1000, max(0, ROWS - start))
    stats = documents.filter_stats()
    assert stats.bytes <= 1 << 20
    assert 20 < stats.entries < 50  # a list of 1,000 integers takes 40 kB and more in Python


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"year": {"$lt": 1}}, {"year": {"$lte": 1}}),
        ({"year": 1}, {"year": {"$exists": True}}),
        ({"sold": True}, {"sold": False}),
        ({"$or": [{"year": 1}, {"year": 2}]}, {"$and": [{"year": 1}, {"year": 2}]}),
        ({"kind": "book"}, {"kind": {"$not": {"$eq": "book"}}}),
    ],
)
def test_filters_that_differ_are_told_apart(one: dict[str, Any], other: dict[str, Any]) -> None:
    documents, fresh = make_documents(1 << 20), make_documents(0)
    for raw in (one, other, one):
        assert select(documents, raw).rows().tolist() == select(fresh, raw).rows().tolist()


def test_giving_up_between_conditions_keeps_what_was_computed() -> None:
    documents, seen = make_documents(1 << 20), []

    def pace() -> None:
        seen.append(1)
        if len(seen) == 3:  # of all of it, of kind, and of year
            raise TimeoutError

    with pytest.raises(TimeoutError):
        select(documents, {"kind": "book", "year": {"$lt": 50}}, pace=pace)
    assert documents.filter_stats().entries == 1


def test_giving_up_before_the_only_condition() -> None:
    documents = make_documents(1 << 20)

    def pace() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        select(documents, {"kind": "book"}, pace=pace)
    assert documents.filter_stats().entries == 0


@pytest.mark.parametrize(
    "raw",
    [
        {"$or": [{"kind": "book"} for _ in range(200)]},
        {"$and": [{"$not": {"$not": {"kind": "book"}}} for _ in range(70)]},
        {"$or": [{} for _ in range(200)]},
    ],
)
def test_giving_up_between_parts_that_need_no_computing(raw: dict[str, Any]) -> None:
    documents, seen = make_documents(1 << 20), []
    select(documents, {"kind": "book"})

    def pace() -> None:
        seen.append(1)
        if len(seen) == 150:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        select(documents, raw, pace=pace)
    assert documents.filter_stats().entries == 1


def test_threads_may_share_a_cache_that_is_too_small() -> None:
    documents = make_documents(4 * 2048)

    def count(bound: int) -> int:
        return select(documents, {"year": {"$lt": bound % 16 * 10}}).count

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(count, range(400))) == [bound % 16 * 10 for bound in range(400)]
    assert documents.filter_stats().bytes <= 4 * 2048
