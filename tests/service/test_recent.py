"""Recent queries: bounded, different, the latest first, and only told apart in logs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from service.recent import RecentQueries, digest


def test_the_latest_different_ones_come_first() -> None:
    recent = RecentQueries(3, 1 << 20)
    for query in ("a", "b", "a", "c", "d", "a"):
        recent.note(query)
    assert recent.latest(10) == ["a", "d", "c"]
    assert recent.latest(2) == ["a", "d"]
    assert recent.latest(0) == []
    assert len(recent) == 3


def test_bytes_are_bounded_and_what_is_longer_is_not_kept() -> None:
    recent = RecentQueries(1000, 2000)
    recent.note("short")
    recent.note("x" * 3000)
    assert recent.latest(10) == ["short"]
    for number in range(100):
        recent.note(f"{number} " + "y" * 200)
        assert recent.bytes <= 2000
    assert 0 < len(recent) < 8
    assert recent.latest(1) == ["99 " + "y" * 200]


def test_characters_that_take_more_bytes_count_as_what_they_take() -> None:
    recent = RecentQueries(1000, 4000)
    for number in range(50):
        recent.note(f"{number}" + "語" * 300)
    assert len(recent) * 600 <= 4000


def test_nothing_is_kept_where_nothing_is_wanted() -> None:
    recent = RecentQueries(0, 1 << 20)
    recent.note("a")
    assert (recent.latest(10), recent.bytes) == ([], 0)


def test_a_tap_hears_every_query_for_as_long_as_it_is_open() -> None:
    recent, heard = RecentQueries(10, 1 << 20), []
    recent.note("before")
    with recent.tapped(heard.append):
        for query in ("a", "a", "b"):
            recent.note(query)
    recent.note("after")
    assert heard == ["a", "a", "b"]


def test_a_tap_is_closed_by_an_error_too() -> None:
    recent, heard = RecentQueries(10, 1 << 20), []
    with pytest.raises(KeyError), recent.tapped(heard.append):
        raise KeyError
    recent.note("after")
    assert heard == []


def test_many_threads_leave_the_count_of_bytes_right() -> None:
    recent = RecentQueries(50, 1 << 20)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: recent.note(f"query {number % 200}"), range(4000)))
    assert len(recent) == 50
    assert recent.bytes == sum(recent._kept.values())


def test_a_digest_tells_apart_and_gives_nothing_away() -> None:
    assert digest("secret") == digest("secret") != digest("secret ")
    assert len(digest("secret" * 100)) == 12
