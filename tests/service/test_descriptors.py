"""The limit on open files, and what follows from it for connections."""

from __future__ import annotations

import resource

import pytest

from service.descriptors import connection_limit, raise_file_limit

UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "asked", "expected"),
    [
        (20_000, None, 16_384),
        (4096, None, 4096 - 256),
        (64, None, 32),
        (1, None, 1),
        (20_000, 100, 100),
        (1024, 5000, 768),
        (UNLIMITED, None, 16_384),
        (UNLIMITED, 100_000, 100_000),
    ],
)
def test_connections_leave_room_for_other_files(
    soft: int, asked: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, UNLIMITED))
    assert connection_limit(asked) == expected


def test_as_many_files_as_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_system_that_refuses_more_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: int, limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, UNLIMITED))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_file_limit()
    assert connection_limit(None) == 128
