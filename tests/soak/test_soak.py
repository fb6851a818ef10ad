"""The parts of ``make soak``: snapshots that can be told apart, a judge who does, windows, and what is made of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from make_snapshot import make_snapshot

from service.generation import Generation, GenerationOptions, open_generation
from snapshot.layout import Layout
from snapshot.manifest import read_manifest
from tests.bench.cache import Cache
from tests.bench.figures import Row, Rows
from tests.bench.goals import judge
from tests.soak.answers import Judge, Verdict
from tests.soak.load import Order, Seen
from tests.soak.memory import Peak, held
from tests.soak.promises import AFTER, DEMO, GOALS, early, later, more
from tests.soak.swaps import EACH, _pauses, _Windows
from tests.soak.trio import Trio, make_trio

MARKS = {"a": "", "b": "negated: ", "c": "again: "}


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    folder: Path = tmp_path_factory.mktemp("soak")
    layout = make_snapshot(folder / "made", kind="hnsw")
    return make_trio(Cache(folder / "cache"), layout, "text", ["apple", "bread chair"])


def load(layout: Layout) -> Generation:
    return open_generation(layout, GenerationOptions(), lambda step: None)


def test_all_three_pass_their_proof_and_find_the_same(trio: Trio) -> None:
    found = []
    for layout in trio.layouts:
        generation = load(layout)
        hits = generation.engine.search(generation.encoder.encode(["apple bread"]), 10, 64)
        found.append(hits.rows[0].tolist())
        mark = trio.marks[layout.root.name]
        assert all(field["text"].startswith(mark) for field in generation.documents.fields(hits.rows[0], ["text"]))
    assert found[0] == found[1] == found[2]


def test_a_tower_does_not_find_in_the_index_of_the_negated_one(trio: Trio) -> None:
    first, negated = (load(layout) for layout in trio.layouts[:2])
    vectors = first.encoder.encode(["apple bread"])
    own, other = (set(generation.engine.search(vectors, 10, 64).rows[0].tolist()) for generation in (first, negated))
    assert not own & other
    assert read_manifest(trio.layouts[0].manifest).space != read_manifest(trio.layouts[1].manifest).space


def test_what_did_not_change_is_linked_and_the_rest_is_not(trio: Trio) -> None:
    first, negated, marked = trio.layouts
    assert first.index.stat().st_ino == marked.index.stat().st_ino != negated.index.stat().st_ino
    assert first.tokenizer.stat().st_ino == negated.tokenizer.stat().st_ino
    assert load(first).id == first.root.name  # its own files have not changed


def test_a_registry_of_all_three_is_gone_afterwards(trio: Trio) -> None:
    with trio.registry() as registry:
        assert registry.ids() == sorted(trio.ids)
        assert registry.current() == trio.ids[0]
    assert not registry.root.exists()
    assert all(layout.index.is_file() for layout in trio.layouts)


def answer(named: str, texts: list[str], ids: list[str] | None = None, degraded: object = None) -> bytes:
    ids = ids or [f"doc-{place}" for place in range(len(texts))]
    hits = [{"id": name, "fields": {"text": text}} for name, text in zip(ids, texts, strict=True)]
    return json.dumps({"snapshot": named, "hits": hits, "degraded": degraded}).encode()


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (answer("a", ["one", "two"]), Verdict.WHOLE),
        (answer("b", ["negated: one", "negated: two"]), Verdict.WHOLE),
        (answer("a", ["one", "negated: two"]), Verdict.MIXED),
        (answer("b", ["negated: one", "two"]), Verdict.MIXED),
        (answer("b", ["again: one"]), Verdict.MIXED),
        (answer("d", ["one"]), Verdict.MIXED),
        (answer("a", []), Verdict.UNTOLD),
        (json.dumps({"snapshot": "a", "hits": [{"id": "x", "fields": None}], "degraded": {}}).encode(), Verdict.UNTOLD),
    ],
)
def test_documents_of_another_snapshot_are_noticed(body: bytes, verdict: Verdict) -> None:
    assert Judge(MARKS, "text").judge("apple", body)[1] is verdict


@pytest.mark.parametrize(
    ("found", "degraded", "verdict"),
    [
        (["1", "2", "3", "4", "5"], None, Verdict.WHOLE),
        (["5", "4", "3", "2", "9"], None, Verdict.WHOLE),  # a near tie
        (["6", "7", "8", "9", "10"], None, Verdict.MIXED),
        (["6", "7", "8", "9", "10"], {"causes": ["deadline_effort"]}, Verdict.WHOLE),
    ],
)
def test_hits_by_the_tower_of_another_are_noticed(found: list[str], degraded: object, verdict: Verdict) -> None:
    one = Judge(MARKS, "text", {"apple": ["1", "2", "3", "4", "5"]})
    assert one.judge("apple", answer("a", ["one"] * 5, found, degraded))[1] is verdict
    assert one.judge("unknown", answer("a", ["one"] * 5, found, degraded))[1] is Verdict.WHOLE


def test_half_of_the_requests_are_new_and_none_twice() -> None:
    order = Order(0, 100, 1, 10, ["often"], ["seed"], 7, {}, "text", {})
    queries = order.queries()
    assert queries.count("often") == len(queries) // 2 > 500
    assert len(set(queries)) == len(queries) // 2 + 1
    other = Order(0, 100, 1, 10, ["often"], ["seed"], 8, {}, "text", {})
    assert set(queries) & set(other.queries()) == {"often"}


def test_windows_hold_what_was_due_within() -> None:
    due = np.arange(10.0)
    zeros = np.zeros(10, dtype=int)
    seen = Seen(zeros > 0, due, due, due + 0.5, zeros + 200, np.array([0] * 6 + [1] * 4), zeros > 0, zeros > 0, ["a", "b"])
    assert due[seen.within([1.0, 6.0], [3.0, 7.0])].tolist() == [1.0, 2.0, 6.0]
    assert seen.first_from("b", 2.0) == 6.5
    assert seen.first_from("b", 7.0) == 7.5
    assert seen.first_from("c", 0.0) is None


def test_the_pause_of_a_swap_is_that_of_its_own_window() -> None:
    due, zeros = np.arange(10.0), np.zeros(10, dtype=int)
    took = np.array([1, 1, 2, 1, 1, 9, 1, 1, 4, 1]) / 1e3
    seen = Seen(zeros == 0, due, due, due + took, zeros + 200, zeros - 1, zeros > 0, zeros > 0, [])
    windows = _Windows(steady=[(0, 4), (6, 8), (9, 10)], swapping=[(4, 6), (8, 9)])
    pauses = list(_pauses(seen, windows))
    assert [pause["pause_ms"] for pause in pauses] == pytest.approx([9, 4])
    assert [pause["steady_pause_ms"] for pause in pauses] == pytest.approx([2, 1])


def swaps(values: list[float], figure: str = "resident_mb") -> Rows:
    return Rows([Row(DEMO, "service", EACH, number + 1, {figure: value}) for number, value in enumerate(values)])


def test_memory_is_compared_where_the_same_snapshots_are_open() -> None:
    rows = swaps([10.0 * number for number in range(1, 13)])
    assert early(DEMO, "resident_mb")(rows) == [50.0]
    assert later(DEMO, "resident_mb")(rows) == [110.0]  # after the eleventh: of twelve the last that is like the fifth
    assert more(DEMO, "resident_mb")(rows) == [60.0]
    assert early(DEMO, "resident_mb")(swaps([1.0] * AFTER)) == []


def test_a_leak_is_short_and_a_run_that_is_too_short_says_nothing() -> None:
    verdicts = {verdict.name: verdict.is_met for verdict in judge(swaps([100.0] * 5 + [106.0] * 10), GOALS)}
    assert verdicts == {"demo_memory_ratio": False}
    assert {verdict.name for verdict in judge(swaps([7.0] * 20, "files"), GOALS)} == {"demo_files_left"}
    assert judge(swaps([1.0, 2.0]), GOALS) == []


def test_names_of_goals_are_unique() -> None:
    names = [goal.name for goal in GOALS]
    assert len(set(names)) == len(names)


def test_a_peak_is_seen() -> None:
    before = held(os.getpid())
    with Peak(os.getpid()) as peak:
        ballast = np.ones(20_000_000)
    assert peak.resident - before.resident > 100_000_000
    assert before.files > 0 < before.threads
    assert ballast.sum() > 0
