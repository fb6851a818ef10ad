"""What a running service says of itself, judged by tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.doctor.running import (
    _BY_CODE,
    Probes,
    Ready,
    check_budget,
    check_connections,
    check_converged,
    check_engine,
    check_headroom,
    check_keys,
    check_live,
    check_operators,
    check_proof,
    check_ready,
    check_remote,
)
from service.settings import variable

ROOT = Path(__file__).parents[3]
GB = 1e9


def test_ready_says_why_not() -> None:
    assert check_ready(Ready(200, {})).verdict == "ok"
    found = check_ready(Ready(503, {"code": "no_snapshot", "detail": "wrong_space: distil again"}))
    assert (found.verdict, "wrong_space" in found.advice, "no_snapshot" in found.seen) == ("wrong", True, True)


@pytest.mark.parametrize(
    ("desired", "serving", "state", "code", "verdict"),
    [
        ("a", "a", "serving", "", "ok"),
        ("a", "a", "serving", "an_old_failure", "ok"),
        ("b", "a", "proving", "", "warn"),
        ("b", "a", "failed", "hash_mismatch", "wrong"),
        ("b", "a", "verifying", "hash_mismatch", "wrong"),
        (None, None, "idle", "", "wrong"),
    ],
)
def test_converged(desired: str | None, serving: str | None, state: str, code: str, verdict: str) -> None:
    found = check_converged(desired, serving, state, code, "a reason")
    assert found.verdict == verdict
    assert verdict != "wrong" or found.advice.startswith(code or "activate")


def test_a_remote_registry_that_fails_says_why() -> None:
    assert check_remote("following", None, None).verdict == "ok"
    assert check_remote("failing", "remote_denied", "no right").advice.startswith("remote_denied: no right")


def test_a_server_of_vectors_that_is_not_asked_says_why() -> None:
    assert check_engine("closed", None).verdict == "ok"
    found = check_engine("open", "http://db:19530: refused")
    assert (found.verdict, found.seen) == ("wrong", "open")
    assert found.advice.startswith("http://db:19530: refused; docs/milvus.md")


@pytest.mark.parametrize(
    ("proven", "distance", "recall", "verdict"),
    [(True, 1e-6, 1.0, "ok"), (False, 1e-6, 1.0, "wrong"), (True, 1e-3, 1.0, "wrong"), (True, 1e-6, 0.5, "wrong")],
)
def test_proof(proven: bool, distance: float, recall: float, verdict: str) -> None:
    assert check_proof(proven, (distance, recall), (1e-5, 0.9)).verdict == verdict


def test_a_proof_that_failed_is_not_shown_by_the_figures_of_the_one_before() -> None:
    found = check_proof(False, (1e-6, 1.0), (1e-5, 0.9), ("hash_mismatch", "index.bin: other bytes"))
    assert found.verdict == "wrong"
    assert found.seen.startswith("failed (hash_mismatch); before that cosine distance")
    assert found.advice.startswith("index.bin: other bytes; ")
    assert check_proof(False, (1e-6, 1.0), (1e-5, 0.9)).seen.startswith("failed (the log says why)")
    assert check_proof(True, (1e-6, 1.0), (1e-5, 0.9), ("golden_failed", "x")).verdict == "wrong"


def test_live_figures_are_judged_where_there_are_any() -> None:
    assert check_live((None, float("nan")), (0.9, 0.6)) == []
    found = check_live((0.85, 0.7), (0.9, 0.6))
    assert [(each.check, each.verdict) for each in found] == [("live_recall", "wrong"), ("teacher_overlap", "ok")]
    assert found[0].seen == "0.850 of exact search's best at most, by live searches"


@pytest.mark.parametrize(
    ("available", "resident", "verdict"),
    [(None, GB, "unknown"), (GB, GB, "ok"), (0.15 * GB, 0.85 * GB, "warn"), (0.05 * GB, 0.95 * GB, "wrong")],
)
def test_headroom(available: float | None, resident: float, verdict: str) -> None:
    assert check_headroom(available, resident).verdict == verdict


@pytest.mark.parametrize(
    ("now", "limit", "asked", "verdict"),
    [
        (None, None, None, "unknown"),
        (1, 16_384, None, "ok"),
        (15_000, 16_384, None, "warn"),
        (1, 768, None, "warn"),
        (1, 768, 768, "ok"),
        (1, 768, 2000, "wrong"),
    ],
)
def test_connections(now: float | None, limit: float | None, asked: int | None, verdict: str) -> None:
    assert check_connections(now, limit, asked).verdict == verdict


def test_operators() -> None:
    assert [check_operators(on).verdict for on in (True, False)] == ["ok", "warn"]


def test_a_file_of_keys_that_is_wrong() -> None:
    assert [check_keys(valid).verdict for valid in (True, False)] == ["ok", "wrong"]


@pytest.mark.parametrize(
    ("total", "refused", "verdict"),
    [
        (1, (), "ok"),
        (1, ("HTTP 429 overloaded",), "warn"),
        (1, ("HTTP 429 key_rate_limited",), "ok"),
        (60, (), "warn"),
        (101, (), "wrong"),
    ],
)
def test_budget(total: float, refused: tuple[str, ...], verdict: str) -> None:
    timings = {"search": total / 2, "total": total, "round_trip": total + 1}
    found = check_budget(Probes((timings,) * 3, refused), 100.0)
    assert (found.verdict, f"search {total / 2:.2g}" in found.seen) == (verdict, True)


def test_a_service_that_wants_a_key_is_not_judged_without_one() -> None:
    found = check_budget(Probes((), ("HTTP 401 key_unknown",) * 2), 100.0)
    assert (found.verdict, "--key-file" in found.advice) == ("unknown", True)
    assert check_budget(Probes((), ("HTTP 401 key_unknown", "HTTP 500 internal")), 100.0).verdict == "wrong"


def test_no_answer_at_all_is_wrong_and_says_what_came() -> None:
    found = check_budget(Probes((), ("HTTP 503 no_snapshot",)), 100.0)
    assert (found.verdict, "HTTP 503 no_snapshot" in found.seen) == ("wrong", True)


PACED = "HTTP 429 key_rate_limited"


def test_a_key_s_own_rate_says_nothing_of_the_service() -> None:
    found = check_budget(Probes((), (PACED,) * 15), 100.0)
    assert (found.verdict, "--key-file" in found.advice) == ("unknown", True)
    found = check_budget(Probes(({"total": 1.0, "round_trip": 2.0},) * 5, (PACED,) * 10), 100.0)
    assert (found.verdict, "10 refused (HTTP 429 key_rate_limited)" in found.seen) == ("ok", True)


@pytest.mark.parametrize("timings", [(), ({"total": 1.0, "round_trip": 2.0},)])
def test_refused_searches_are_advised_on_by_their_code(timings: tuple[dict[str, float], ...]) -> None:
    found = check_budget(Probes(timings, ("HTTP 429 overloaded", "HTTP 503 too_slow", PACED)), 100.0)
    assert found.verdict == ("warn" if timings else "wrong")
    assert "docs/runbook.md#429" in found.advice
    assert "docs/runbook.md#every-replica-sends-requests-elsewhere" in found.advice
    assert variable("default_timeout_ms") not in found.advice
    assert "see ready" in check_budget(Probes((), ()), 100.0).advice
    assert check_budget(Probes(timings, ("HTTP 418",)), 100.0).advice


def test_what_is_advised_is_there_to_read() -> None:
    text = (ROOT / "docs/runbook.md").read_text()
    sections = {
        re.sub(r"[^\w -]", "", line[3:].lower()).replace(" ", "-") for line in text.splitlines() if line.startswith("## ")
    }
    linked = re.findall(r"docs/runbook\.md#([\w-]+)", " ".join(_BY_CODE.values()))
    assert linked
    assert {*linked} <= sections
