"""Live queries looked at again: real snapshots and engines; oracles are exact search and both towers in numpy."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from make_snapshot import make_oracle, make_snapshot, teacher_table, token_ids
from manual_clock import ManualClock

from service.generation import Generation, GenerationOptions, open_generation
from service.live import Live, LiveOptions, Outcome, Work
from service.plan import SearchPlan
from service.spare import Spare
from service.stages import Hit, Result, Search

ORACLE = make_oracle()
QUERIES = [" ".join(text.split()[:2]) for text in ORACLE.texts]
PLAN = SearchPlan(effort=16, exact=False, with_fields=True, causes=(), expected_recall=0.9)
ALL = LiveOptions(recall_share=1.0, teacher_share=1.0, worst_queries=5)
NOISE = 0.7


class Heard:
    """A LiveObserver that remembers."""

    def __init__(self) -> None:
        self.counts, self.cosines, self.cpu_seconds = Counter[tuple[Work, Outcome]](), list[float](), 0.0

    def sampled(self, work: Work, outcome: Outcome) -> None:
        self.counts[work, outcome] += 1

    def agreed(self, cosine: float) -> None:
        self.cosines.append(cosine)

    def worked(self, cpu_seconds: float) -> None:
        self.cpu_seconds += cpu_seconds


def load(folder: Path, teacher: float | None = None, seed: int = 0) -> Generation:
    layout = make_snapshot(folder, kind="hnsw", seed=seed, teacher=teacher)
    return open_generation(layout, GenerationOptions(batching=False), lambda step: None)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return load(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return load(tmp_path_factory.mktemp("taught"), teacher=NOISE)


class Served:
    """What serves: a generation that nobody closes, since tests share it."""

    def __init__(self, now: Generation | None) -> None:
        self.now = now

    @property
    def serving(self) -> str | None:
        return None if self.now is None else self.now.id

    def peer(self) -> AbstractContextManager[Generation | None]:
        return nullcontext(self.now)


class Bench:
    """What serves, and a Live whose time costs nothing unless a test says so."""

    def __init__(self, serving: Generation, options: LiveOptions = ALL) -> None:
        self.served, self.heard = Served(serving), Heard()
        self.serving = serving
        self.live = Live(options, self.served, self.heard, sleep=lambda _: None, chance=lambda: 0.0)

    def ask(self, query: str, rows: list[int] | None = None, **asked: object) -> None:
        """A user has asked, and was given these rows with their true scores."""
        search = Search(query, **asked)  # type: ignore[arg-type]
        scores = np.sort((ORACLE.encode([query]) @ ORACLE.documents.T)[0])[::-1]
        found = scores[: search.k] if rows is None else scores[rows]
        hits = [Hit(str(number), float(score), {}) for number, score in enumerate(found)]
        self.live.hear(search, Result(hits, PLAN, truncated=False), self.serving)

    def look(self) -> None:
        while self.live.step():
            pass


def test_recall_is_that_of_exact_search_with_its_interval(plain: Generation) -> None:
    bench = Bench(plain)
    bench.ask(QUERIES[0])
    bench.ask(QUERIES[1], rows=[0, 1, 2, 3, 4, 5, 6, 100, 101, 102])
    bench.look()
    found = bench.live.figures(plain.id).recall
    assert found is not None
    assert found.mean == pytest.approx((1.0 + 0.7) / 2)
    assert found.low < found.mean < found.high <= 1.0
    assert found.size == 2
    assert bench.heard.counts == {("recall", "compared"): 2}


def test_fewer_hits_than_asked_for_are_missed_hits(plain: Generation) -> None:
    bench = Bench(plain)
    bench.ask(QUERIES[0], rows=[0, 1, 2])
    bench.ask(QUERIES[0], rows=[0], k=1)
    bench.look()
    found = bench.live.figures(plain.id).recall
    assert found is not None
    assert found.mean == pytest.approx((0.3 + 1.0) / 2)


def test_a_filter_restricts_what_could_have_been_found(plain: Generation) -> None:
    """Rows 0, 3, 6, … are books; an oracle in numpy says which of them are best."""
    query = QUERIES[5]
    scores = (ORACLE.encode([query]) @ ORACLE.documents.T)[0]
    books = np.sort(scores[::3])[::-1]
    bench = Bench(plain)
    hits = [Hit(str(number), float(score), {}) for number, score in enumerate([*books[:5], *books[20:25]])]
    bench.live.hear(Search(query, filter={"kind": "book"}), Result(hits, PLAN, truncated=False), plain)
    nothing = Search(query, filter={"number": {"$gt": 10_000}})
    bench.live.hear(nothing, Result([], PLAN, truncated=False), plain)
    bench.look()
    found = bench.live.figures(plain.id).recall
    assert found is not None
    assert found.mean == pytest.approx(0.5)
    assert bench.heard.counts == {("recall", "compared"): 1, ("recall", "empty"): 1}


def test_pages_and_cut_answers_are_counted_and_not_judged(plain: Generation) -> None:
    bench = Bench(plain)
    bench.ask(QUERIES[0], offset=10)
    bench.ask(QUERIES[0], min_score=0.5)
    bench.look()
    assert bench.live.figures(plain.id).recall is None
    assert bench.heard.counts == {("recall", "partial"): 2}


def test_exact_searches_say_nothing_of_the_approximate(plain: Generation) -> None:
    bench = Bench(plain)
    bench.ask(QUERIES[0], exact=True)
    bench.look()
    assert bench.live.figures(plain.id).recall is None
    assert bench.heard.counts == {("recall", "exact"): 1}


def test_the_teacher_is_compared_by_cosine_and_overlap(taught: Generation) -> None:
    bench = Bench(taught, replace(ALL, recall_share=0.0))
    asked = QUERIES[:20]
    for query in asked:
        bench.ask(query)
    bench.look()
    table = teacher_table(ORACLE.table, NOISE)
    sums = np.stack([table[token_ids(query)].sum(axis=0) for query in asked])
    theirs = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    ours = ORACLE.encode(asked)
    cosines = (ours * theirs).sum(axis=1)
    best = [np.argsort(-(vectors @ ORACLE.documents.T), axis=1)[:, :10] for vectors in (ours, theirs)]
    overlaps = [len(set(mine) & set(other)) / 10 for mine, other in zip(*best, strict=True)]
    found = bench.live.figures(taught.id)
    assert bench.heard.cosines == pytest.approx(cosines, abs=1e-5)
    assert found.cosine is not None
    assert found.overlap is not None
    assert found.cosine.mean == pytest.approx(cosines.mean(), abs=1e-5)
    assert found.overlap.mean == pytest.approx(np.mean(overlaps), abs=0.03)  # found by HNSW at its greatest effort
    rows = [json.loads(line) for line in bench.live.worst_jsonl().splitlines()]
    assert [row["query"] for row in rows] == [asked[i] for i in np.argsort(cosines)[:5]]
    assert {row["snapshot"] for row in rows} == {taught.id}


@pytest.mark.parametrize(("noise", "agrees"), [(0.0, True), (3.0, False)])
def test_a_bad_student_is_seen_without_a_judgement(tmp_path: Path, noise: float, agrees: bool) -> None:
    bench = Bench(load(tmp_path, teacher=noise))
    for query in QUERIES[:40]:
        bench.ask(query)
    bench.look()
    found = bench.live.figures(bench.serving.id)
    assert found.cosine is not None
    assert found.overlap is not None
    assert (found.cosine.low > 0.99) is agrees
    assert (found.overlap.low > 0.9) is agrees
    assert (found.cosine.high < 0.7) is not agrees
    assert found.recall is not None
    assert found.recall.mean == 1.0  # of the index, which is as good as ever


def test_without_a_teacher_nothing_is_said_of_one(plain: Generation) -> None:
    bench = Bench(plain, replace(ALL, recall_share=0.0))
    bench.ask(QUERIES[0])
    bench.look()
    assert bench.heard.counts == {}
    assert bench.live.figures(plain.id) == (None, None, None, 0)


def test_a_teacher_that_does_not_open_is_tried_once_and_counted(tmp_path: Path) -> None:
    generation = load(tmp_path, teacher=0.0)
    generation.layout.teacher.model.write_bytes(b"no graph")
    bench = Bench(generation, replace(ALL, recall_share=0.0))
    for _ in range(2):
        bench.ask(QUERIES[0])
    bench.look()
    assert bench.heard.counts == {("teacher", "failed"): 2}


def test_a_swap_begins_anew(plain: Generation, taught: Generation) -> None:
    bench = Bench(plain)
    bench.ask(QUERIES[0])
    bench.look()
    bench.ask(QUERIES[1])
    bench.served.now = taught
    bench.look()
    assert bench.heard.counts["recall", "swapped"] == 1
    assert bench.live.figures(taught.id).recall is None
    bench.serving = taught
    bench.ask(QUERIES[0], rows=[0] * 10)
    bench.look()
    found = bench.live.figures(taught.id).recall
    assert found is not None
    assert found.size == 1
    assert bench.live.figures(plain.id).recall is None


def test_a_swap_loses_no_worst_query_and_neither_does_a_folder_that_is_there_late(taught: Generation, tmp_path: Path) -> None:
    path, other = tmp_path / "late" / "worst.jsonl", load(tmp_path, teacher=NOISE, seed=1)
    bench = Bench(taught, replace(ALL, worst_file=path))
    bench.ask(QUERIES[0])
    bench.look()
    path.parent.touch()
    bench.live.write()
    path.parent.unlink()
    bench.serving = bench.served.now = other
    bench.ask(QUERIES[1])
    bench.look()
    bench.live.write()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(row["query"], row["snapshot"]) for row in rows} == {(QUERIES[0], taught.id), (QUERIES[1], other.id)}


def test_what_is_pinned_is_let_go_when_another_serves(plain: Generation, taught: Generation) -> None:
    bench = Bench(plain)
    bench.served.now = replace(plain, encoder=_Swapping(plain.encoder, bench.served, taught))  # type: ignore[arg-type]
    clock = iter(range(10**6))
    bench.live = Live(ALL, bench.served, bench.heard, clock=lambda: float(next(clock)), sleep=lambda _: None, chance=lambda: 0.0)
    bench.ask(QUERIES[0])
    bench.look()
    assert bench.heard.counts == {("recall", "swapped"): 1}


class _Swapping:
    """An encoder during whose work another snapshot takes over."""

    def __init__(self, inner: object, served: Served, other: Generation) -> None:
        self._inner, self._served, self._other = inner, served, other

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def encode(self, queries: list[str]) -> object:
        self._served.now = self._other
        return self._inner.encode(queries)  # type: ignore[attr-defined]


def test_what_comes_too_fast_is_dropped_and_memory_is_bounded(plain: Generation) -> None:
    bench = Bench(plain)
    for query in (QUERIES * 2)[:100]:
        bench.ask(query)
    assert len(bench.live._waiting) == 64
    assert bench.heard.counts == {("recall", "dropped"): 36}


def test_only_its_share_is_put_aside_and_none_where_it_is_off(plain: Generation) -> None:
    bench = Bench(plain)
    chances = iter([0.9, 0.5, 0.3, 0.1] * 25)
    bench.live = Live(replace(ALL, recall_share=0.25), bench.served, bench.heard, chance=lambda: next(chances))
    for _ in range(100):
        bench.ask(QUERIES[0])
    assert len(bench.live._waiting) == 25
    off = Live(replace(ALL, recall_share=0.0, teacher_share=0.0), bench.served)
    assert not off.on


def test_an_error_of_a_query_is_counted_and_the_next_is_looked_at(plain: Generation) -> None:
    bench = Bench(plain)
    failing: Iterator[bool] = iter([True, False])
    bench.served.now = replace(plain, encoder=_Failing(plain.encoder, failing))  # type: ignore[arg-type]
    bench.ask(QUERIES[0])
    bench.ask(QUERIES[0])
    bench.look()
    assert bench.heard.counts == {("recall", "failed"): 1, ("recall", "compared"): 1}


class _Failing:
    def __init__(self, inner: object, failing: Iterator[bool]) -> None:
        self._inner, self._failing = inner, failing

    def encode(self, queries: list[str]) -> object:
        if next(self._failing):
            raise RuntimeError("inside")
        return self._inner.encode(queries)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("busy", "share"), [(0.0, 0.05), (0.9, 0.005)])
def test_it_never_takes_more_than_its_share(plain: Generation, busy: float, share: float) -> None:
    """Each look takes 10 ms of the processor; meanwhile requests take ``busy`` of the only core."""
    clock, mine = ManualClock(), [0.0]
    begun = clock.now

    def costs() -> None:
        mine[0] += 0.01
        clock.advance_ms(10)

    def everything() -> float:
        return mine[0] + busy * (clock.now - begun)

    spare = Spare(0.005, 1, clock, everything, lambda: mine[0], most=0.05)
    served = Served(replace(plain, encoder=_Costly(plain.encoder, costs)))  # type: ignore[arg-type]
    live = Live(ALL, served, None, spare, clock, lambda: mine[0], lambda s: clock.advance_ms(s * 1000), lambda: 0.0)
    for _ in range(100):
        live.hear(Search(QUERIES[0]), Result([], PLAN, truncated=False), plain)
        live.step()
        live._pace()
    taken = mine[0] / (clock.now - begun)
    assert mine[0] == pytest.approx(1.0)
    assert taken <= share * 1.05
    assert taken >= share * 0.8


class _Costly:
    def __init__(self, inner: object, costs: Callable[[], None]) -> None:
        self._inner, self._costs = inner, costs

    def encode(self, queries: list[str]) -> object:
        self._costs()
        return self._inner.encode(queries)  # type: ignore[attr-defined]


@contextmanager
def running(live: Live) -> Iterator[None]:
    live.start()
    try:
        yield
    finally:
        live.stop(10)


def test_on_its_own_thread_it_looks_writes_and_ends(taught: Generation, tmp_path: Path) -> None:
    path = tmp_path / "worst.jsonl"
    bench = Bench(taught, replace(ALL, worst_file=path))
    with running(bench.live):
        for query in QUERIES[:8]:
            bench.ask(query)
        end = time.monotonic() + 60
        while bench.heard.counts["teacher", "compared"] < 8:
            assert time.monotonic() < end
            threading.Event().wait(0.01)
    assert "live" not in {thread.name for thread in threading.enumerate()}
    assert len(path.read_text().splitlines()) == 5
    assert path.read_text() == bench.live.worst_jsonl()


def test_worst_queries_are_written_while_searches_wait_without_end_and_beside_those_of_before(
    taught: Generation, tmp_path: Path
) -> None:
    path, clock = tmp_path / "worst.jsonl", ManualClock()
    path.write_text(f"{json.dumps({'query': 'of yesterday', 'cosine': -1.0, 'overlap': 0.0, 'snapshot': 'before'})}\n")
    bench, asked = Bench(taught), iter(QUERIES * 100)
    both = threading.Event()

    class Busy(Heard):
        def worked(self, cpu_seconds: float) -> None:
            clock.advance_ms(10_000)
            queries = [json.loads(line)["query"] for line in path.read_text().splitlines()]
            if len(queries) > 1 and queries[0] == "of yesterday":
                both.set()
            for _ in range(0 if both.is_set() else 2):
                bench.ask(next(asked))

    options = replace(ALL, recall_share=0.0, worst_file=path)
    bench.live = Live(options, bench.served, Busy(), clock=clock, sleep=lambda _: None, chance=lambda: 0.0)
    bench.ask(next(asked))
    with running(bench.live):
        assert both.wait(60)
    assert json.loads(path.read_text().splitlines()[0])["query"] == "of yesterday"
