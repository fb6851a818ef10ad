"""Local replicas to hold the plan's simulation against: some that wait, some that compute."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.library import Library, Spec
from tests.bench.session import search as bench_search
from tests.live import ROOT, SERVICE, Live, start, until
from tests.load.wire import search as toy_search

_SLOW_MS = 20.0
_COMMON = ("--query-cache-bytes", "0", "--batching", "off")


@dataclass(frozen=True)
class Kind:
    """Replicas of one kind.

    Attributes:
        workers: threads of each.
        cores: that all share; None where they mostly sleep.
        budget_ms: of a request.
        rows: of the snapshot.
    """

    name: str
    about: str
    workers: int
    cores: float | None
    budget_ms: float
    program: Sequence[str]
    flags: Sequence[str]
    rows: int | None


WAITS = Kind(
    "waits",
    f"each search sleeps {_SLOW_MS:g} ms on one of two threads: queues, door and balancer, hardly any CPU",
    2,
    None,
    100.0,
    ("-m", "tests.load.slow_service"),
    ("--slow-ms", f"{_SLOW_MS:g}", "--threads", "2", *_COMMON),
    None,
)
COMPUTES = Kind(
    "computes",
    "two layers of MiniLM and an HNSW graph of 10,000 documents, one thread a replica; all share this machine's cores",
    1,
    2.0,
    50.0,
    SERVICE,
    ("--threads", "1", *_COMMON),
    10_000,
)
KINDS = {kind.name: kind for kind in (WAITS, COMPUTES)}


@dataclass(frozen=True)
class Corpus:
    """What is served, and what is asked of it."""

    registry: Path
    in_no_hurry: Sequence[bytes]
    in_budget: Sequence[bytes]


def corpus_of(kind: Kind, folder: Path, cache: Path, data: Path) -> Corpus:
    """A toy snapshot in ``folder``, or the bench's."""
    if kind.rows is None:
        return Corpus(
            _toy(folder / "registry"),
            [toy_search(number, 10_000) for number in range(1000)],
            [toy_search(number, kind.budget_ms) for number in range(1000)],
        )
    library = Library(cache, data)
    registry, asked = library.open(Spec(kind.rows, "hnsw")), library.corpus.asked
    return Corpus(
        registry.root,
        [bench_search(each, timeout_ms=10_000) for each in asked],
        [bench_search(each, timeout_ms=kind.budget_ms) for each in asked],
    )


@contextmanager
def running(kind: Kind, corpus: Corpus, count: int, folder: Path) -> Iterator[list[Live]]:
    """So many replicas, ready, until the block ends."""
    with ExitStack() as stack:
        replicas = []
        for _ in range(count):
            live = start(folder, corpus.registry, *kind.flags, program=kind.program)
            stack.callback(live.stop)
            replicas.append(live)
        for live in replicas:
            until(live, live.ready, "ready")
        yield replicas


def _toy(folder: Path) -> Path:
    if str(ROOT / "tests") not in sys.path:
        sys.path.insert(0, str(ROOT / "tests"))  # as pytest does: the modules that tests share import each other by name
    from make_snapshot import make_snapshot

    from snapshot.registry import Registry

    layout = make_snapshot(folder, kind="hnsw")
    Registry(folder).activate(layout.root.name, "for tests/scale", who="tests")
    return folder
