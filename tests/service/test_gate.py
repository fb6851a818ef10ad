"""The gate on real snapshots: what passes, what is refused and by which figure, and what force can do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from make_snapshot import (
    fingerprint,
    make_index,
    make_oracle,
    make_snapshot,
    write_index,
    write_tower,
)
from serving import Hooked

from service.gate import INTEGRITY, QUALITY, Check, GateOptions, GateReport, Record
from service.generation import Beside, Generation, GenerationOptions, open_generation
from service.inspection import Incumbent, Inspection
from snapshot.errors import EngineUnavailableError, GateRefusedError, SnapshotError
from snapshot.layout import Layout
from snapshot.seal import Draft

ORACLE = make_oracle()
QUERIES = [" ".join(text.split()[:2]) for text in ORACLE.texts[:40]]
OPTIONS = GateOptions()


def load(layout: Layout, inspection: Inspection | None = None) -> Generation:
    beside = Beside() if inspection is None else Beside(inspector=inspection)
    return open_generation(layout, GenerationOptions(batching=False), lambda step: None, beside)


def inspection(
    layout: Layout,
    options: GateOptions = OPTIONS,
    serving: Generation | None = None,
    recent: Sequence[str] = QUERIES,
    forced: bool = False,
    **more: Any,
) -> Inspection:
    record = Record(layout.root.name, forced, "they asked for it", lambda: 0.0)
    return Inspection(record, options, lambda: nullcontext(Incumbent.of(serving)), recent, **more)


def judged(layout: Layout, *given: Any, **more: Any) -> tuple[GateReport, SnapshotError | None]:
    """The report, and the refusal where there is one."""
    found = inspection(layout, *given, **more)
    try:
        load(layout, found).close()
    except SnapshotError as error:
        return found.report(error), error
    return found.report(), None


def by_name(report: GateReport) -> dict[str, Check]:
    return {check.name: check for check in report.checks}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return load(make_snapshot(tmp_path_factory.mktemp("served"), kind="hnsw"))


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivfpq"])
def test_an_intact_snapshot_passes_every_check(tmp_path: Path, served: Generation, kind: str) -> None:
    report, error = judged(make_snapshot(tmp_path, kind=kind), serving=served)
    assert error is None
    assert (report.passed, report.forced, report.accepted, report.against) == (True, False, True, served.id)
    assert [check.name for check in report.checks] == [
        "signature", "schema", "hashes", "memory", "parts", "space", "counts", "golden_vectors", "golden_hits",
        "recall", "documents", "required_ids", "overlap", "p99",
    ]  # fmt: skip
    assert all(check.passed for check in report.checks)
    assert {check.name for check in report.checks if check.forcible} <= set(QUALITY)
    assert {check.name for check in report.checks if not check.forcible} == set(INTEGRITY)
    found = by_name(report)
    assert found["overlap"].value == 1.0
    assert found["documents"].value == 1.0
    assert found["golden_hits"].value == 1.0
    assert 0 < float(found["p99"].value or 0) < 1000
    assert float(found["memory"].value or 0) > sum(path.stat().st_size for path in tmp_path.rglob("*.arrow"))
    assert "mapped together" in found["memory"].detail


def test_the_first_snapshot_has_nothing_to_be_compared_with_and_says_so(tmp_path: Path) -> None:
    report, _ = judged(make_snapshot(tmp_path))
    found = by_name(report)
    assert report.passed
    assert report.against is None
    for name in ("documents", "overlap"):
        assert found[name].value is None
        assert found[name].detail == "not applicable: no snapshot serves"


def test_a_start_on_what_has_served_proves_it_and_measures_nothing_again(tmp_path: Path) -> None:
    report, error = judged(make_snapshot(tmp_path, rows=2000, kind="ivfpq", revise=claims_more), served_before=True)
    assert error is None
    found = by_name(report)
    assert {name for name, check in found.items() if check.value is None} == {
        "recall", "documents", "required_ids", "overlap", "p99",
    }  # fmt: skip
    assert found["golden_hits"].value is not None
    assert found["recall"].detail == "not applicable: a start: it has served before"


def test_too_few_recent_queries_say_nothing(tmp_path: Path, served: Generation) -> None:
    report, _ = judged(make_snapshot(tmp_path), serving=served, recent=QUERIES[:3])
    assert by_name(report)["overlap"].detail == "not applicable: 3 recent queries, 20 are needed"


def other_space(layout: Layout) -> None:
    write_tower(layout, ORACLE.table, "ab" * 32)


def other_width(layout: Layout) -> None:
    write_index(layout, make_index(make_oracle(dim=8).documents, "flat")[0])


def fewer_rows(layout: Layout) -> None:
    write_index(layout, make_index(ORACLE.documents[:-1], "flat")[0])


def other_weights(layout: Layout) -> None:
    write_tower(layout, ORACLE.table + np.float32(0.05), fingerprint(0))


def other_tokenizer(layout: Layout) -> None:
    """The tokenizer of another tower: the same words have other numbers."""
    known = json.loads(layout.tokenizer.read_text(encoding="utf-8"))
    vocabulary = known["model"]["vocab"]
    words = [word for word in vocabulary if not word.startswith("[")]
    vocabulary |= {word: vocabulary[words[place - 1]] for place, word in enumerate(words)} | {words[0]: len(vocabulary) - 1}
    layout.tokenizer.write_text(json.dumps(known), encoding="utf-8")


def broken_weights(layout: Layout) -> None:
    write_tower(layout, np.full_like(ORACLE.table, np.nan), fingerprint(0))


def other_order(layout: Layout) -> None:
    write_index(layout, make_index(ORACLE.documents[::-1], "flat")[0])


def not_an_index(layout: Layout) -> None:
    layout.index.write_bytes(b"IxFI" + b"\xff" * 2000)


@pytest.mark.parametrize(
    ("tamper", "check"),
    [
        (other_space, "space"),
        (other_width, "space"),
        (fewer_rows, "counts"),
        (other_weights, "golden_vectors"),
        (other_tokenizer, "golden_vectors"),
        (other_order, "golden_hits"),
        (not_an_index, "parts"),
    ],
)
@pytest.mark.parametrize("forced", [False, True])
def test_integrity_is_refused_by_name_and_cannot_be_forced(tmp_path: Path, tamper: Any, check: str, forced: bool) -> None:
    report, error = judged(make_snapshot(tmp_path, tamper=tamper), forced=forced)
    assert error is not None
    assert not isinstance(error, GateRefusedError)
    assert (report.passed, report.forced, report.code) == (False, False, error.code)
    failed = [each for each in report.checks if not each.passed]
    assert failed[0].name == check
    assert not any(each.forcible for each in failed)


@pytest.mark.parametrize("forced", [False, True])
def test_a_changed_byte_of_any_file_is_refused_and_cannot_be_forced(tmp_path: Path, forced: bool) -> None:
    layout = make_snapshot(tmp_path)
    for path in sorted(path for path in layout.root.rglob("*") if path.is_file() and path != layout.manifest):
        sealed = path.read_bytes()
        for damaged in (sealed[:-1], b"", bytes([sealed[0] ^ 1]) + sealed[1:]):
            path.write_bytes(damaged)
            report, error = judged(layout, forced=forced)
            assert error is not None
            assert error.code == "hash_mismatch"
            assert [(each.name, each.passed) for each in report.checks] == [("hashes", False)]
            assert str(path) in report.checks[0].detail
        path.write_bytes(sealed)
    assert judged(layout)[0].passed


def claims_more(draft: Draft) -> Draft:
    """An effort table better than the index."""
    efforts = tuple(row.model_copy(update={"recall_at_10": 1.0}) for row in draft.index.efforts)
    return replace(draft, index=draft.index.model_copy(update={"efforts": efforts}))


def test_an_effort_table_that_is_not_reproduced_is_refused(tmp_path: Path) -> None:
    layout = make_snapshot(tmp_path, rows=2000, kind="ivfpq", revise=claims_more)
    report, error = judged(layout)
    failed = by_name(report)["recall"]
    assert isinstance(error, GateRefusedError)
    assert (error.code, error.check) == ("gate_recall", "recall")
    assert "effort 1" in failed.detail
    assert float(failed.value or 0) > float(failed.limit or 0) > OPTIONS.recall_tolerance
    assert "--force" in str(error)


def without_entry(layout: Layout) -> None:
    """A graph that no search gets into: the engine answers all the same, by comparing with everything."""
    index = faiss.read_index(str(layout.index))
    index.hnsw.entry_point = -1
    write_index(layout, index)


def test_a_graph_that_finds_nothing_by_itself_is_refused(tmp_path: Path) -> None:
    report, _ = judged(make_snapshot(tmp_path, rows=2000, kind="hnsw", tamper=without_entry))
    assert report.code == "gate_recall"
    assert by_name(report)["golden_hits"].value == 1.0
    assert "0.000 found" in by_name(report)["recall"].detail


def test_recall_is_what_comparing_with_every_document_says(tmp_path: Path) -> None:
    layout = make_snapshot(tmp_path, rows=2000, kind="ivfpq", revise=claims_more)
    report, _ = judged(layout, GateOptions(recall_tolerance=1.0))
    generation = load(layout)
    queries = generation.golden.vectors
    best = np.sort(queries @ make_oracle(rows=2000).documents.T, axis=1)[:, -10:]
    found = generation.engine.search(queries, 10, 1).scores
    expected = 1.0 - np.mean([(row >= floor - 1e-5).mean() for row, floor in zip(found, best[:, 0], strict=True)])
    assert by_name(report)["recall"].value == pytest.approx(expected, abs=1e-3)
    assert expected > 0.1


@pytest.mark.parametrize(("rows", "passed"), [(159, False), (160, True), (400, True), (401, False)])
def test_the_number_of_documents_must_be_like_that_of_the_serving_one(
    tmp_path: Path, served: Generation, rows: int, passed: bool
) -> None:
    report, error = judged(make_snapshot(tmp_path, rows=rows), GateOptions(min_overlap=0), serving=served)
    assert by_name(report)["documents"].passed is passed
    assert (error is None) is passed
    assert report.code == (None if passed else "gate_documents")


def test_one_who_goes_back_is_not_asked_how_much_is_alike(tmp_path: Path, served: Generation) -> None:
    report, error = judged(make_snapshot(tmp_path, rows=20, seed=5), serving=served, comparing=False)
    assert error is None
    assert by_name(report)["documents"].value is None
    assert by_name(report)["overlap"].detail == "not applicable: an operator goes back"


def test_required_ids_are_all_there_or_named(tmp_path: Path) -> None:
    layout, listed = make_snapshot(tmp_path), tmp_path / "ids.txt"
    for ids, passed, detail in (
        (["doc-0", "doc-199", "", "doc-0"], True, "missing of 3 ids"),
        (["doc-0", "doc-200", "x", "y", "z"], False, "such as doc-200, x, y"),
    ):
        listed.write_text("\n".join(ids))
        report, error = judged(layout, GateOptions(required_ids=listed))
        found = by_name(report)["required_ids"]
        assert (found.passed, error is None) == (passed, passed)
        assert detail in found.detail
    assert found.value == 4
    listed.write_bytes(b"\xef\xbb\xbfdoc-0\r\ndoc-199\r\n")  # as spreadsheets write it
    assert judged(layout, GateOptions(required_ids=listed))[0].passed
    listed.unlink()
    report, error = judged(layout, GateOptions(required_ids=listed))
    assert report.code == "gate_required_ids"
    assert "cannot be read" in by_name(report)["required_ids"].detail


def test_another_ranking_is_refused_by_its_overlap_by_id(tmp_path: Path, served: Generation) -> None:
    """Right dimension, golden set and all: the documents of another seed under the same ids."""
    layout = make_snapshot(tmp_path, seed=9)
    report, error = judged(layout, serving=served)
    assert isinstance(error, GateRefusedError)
    assert report.code == "gate_overlap"
    other = make_oracle(seed=9)
    shares = [
        len(set(ours) & set(theirs)) / 10
        for ours, theirs in zip(ORACLE.rows(QUERIES, 10).tolist(), other.rows(QUERIES, 10).tolist(), strict=True)
    ]
    assert by_name(report)["overlap"].value == pytest.approx(np.mean(shares), abs=0.01)


def test_what_serves_and_cannot_be_asked_is_not_compared_with(tmp_path: Path, served: Generation) -> None:
    def unreachable(stage: str) -> None:
        raise EngineUnavailableError("its server does not answer")

    broken = replace(served, engine=Hooked(served.engine, unreachable))
    report, error = judged(make_snapshot(tmp_path), serving=broken)
    assert (error, report.passed, report.against) == (None, True, served.id)
    assert by_name(report)["overlap"].detail == f"not applicable: {served.id} cannot be asked (its server does not answer)"


def test_a_search_that_takes_too_long_here_is_refused(tmp_path: Path) -> None:
    report, error = judged(make_snapshot(tmp_path), GateOptions(p99_ms=0.001))
    assert error is not None
    assert report.code == "gate_p99"


def test_what_does_not_fit_into_memory_is_refused_before_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.checks.available_bytes", lambda: 1000)
    layout = make_snapshot(tmp_path)
    report, error = judged(layout)
    assert report.code == "gate_memory"
    assert [check.name for check in report.checks] == ["signature", "schema", "hashes", "memory"]
    assert error is not None
    forced, error = judged(layout, forced=True)
    assert error is None
    assert forced.forced


def test_where_the_system_does_not_say_what_is_left_memory_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.checks.available_bytes", lambda: None)
    report, _ = judged(make_snapshot(tmp_path))
    assert by_name(report)["memory"].detail.startswith("not applicable")


def test_quality_can_be_forced_and_the_reason_is_kept(tmp_path: Path, served: Generation) -> None:
    layout = make_snapshot(tmp_path, rows=20, seed=9)
    report, error = judged(layout, serving=served, forced=True)
    assert error is None
    assert (report.passed, report.forced, report.accepted, report.why) == (False, True, True, "they asked for it")
    assert {check.name for check in report.checks if not check.passed} == {"documents", "overlap"}


def test_force_that_was_not_needed_is_not_recorded_as_such(tmp_path: Path) -> None:
    report, _ = judged(make_snapshot(tmp_path), forced=True)
    assert (report.passed, report.forced, report.why) == (True, False, "")


def test_a_refusal_says_all_that_failed(tmp_path: Path, served: Generation) -> None:
    _, error = judged(make_snapshot(tmp_path, rows=20, seed=9), GateOptions(p99_ms=0.001), serving=served)
    assert all(name in str(error) for name in ("documents 0.1 against 0.8 to 2", "overlap", "p99"))


def test_a_report_is_json_whatever_it_holds(tmp_path: Path) -> None:
    report, _ = judged(
        make_snapshot(tmp_path, tamper=lambda layout: write_tower(layout, np.full_like(ORACLE.table, np.nan), fingerprint(0)))
    )
    shown = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert shown["passed"] is False
    assert shown["code"] == "golden_failed"
    assert next(check for check in shown["checks"] if check["name"] == "golden_vectors")["value"] == "nan"
    assert set(shown) >= {"snapshot", "at", "checks", "passed", "forced", "against", "why", "code", "reason", "seconds"}


def test_an_unforeseen_error_is_in_the_report_too(tmp_path: Path) -> None:
    layout = make_snapshot(tmp_path)
    report = inspection(layout).report(OSError(28, "No space left on device"))
    assert (report.code, report.passed) == ("internal", False)
    assert report.reason == "OSError: [Errno 28] No space left on device"


def test_giving_up_between_two_pieces_of_work_closes_what_was_opened(tmp_path: Path) -> None:
    class GaveUpError(Exception):
        pass

    def give_up() -> None:
        raise GaveUpError

    layout = make_snapshot(tmp_path)
    with pytest.raises(GaveUpError):
        load(layout, inspection(layout, pace=give_up))
