"""The doctor asks servers on loopback: what a real service said, with one thing altered at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from manual_clock import ManualClock
from serving import client_of, make_registry

from service.ask import Asker, Reply
from service.deadline import Deadline
from service.doctor.command import examine_service
from service.doctor.findings import Finding
from service.doctor.remote import check_service, skew_seconds
from service.errors import UnreachableError

NOW = 1_795_000_000.0


@dataclass(frozen=True)
class Said:
    """Status and body by path, as a service answered."""

    answers: Mapping[str, tuple[int, bytes]]

    def but(self, path: str, change: Callable[[dict[str, Any]], None], status: int | None = None) -> Said:
        """The same with the JSON of one answer changed."""
        before, body = self.answers[path]
        content = json.loads(body)
        change(content)
        return Said({**self.answers, path: (status or before, json.dumps(content).encode())})

    def series(self, line: str, instead: str) -> Said:
        status, body = self.answers["/metrics"]
        assert line.encode() in body
        return Said({**self.answers, "/metrics": (status, body.replace(line.encode(), instead.encode()))})


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    """All that the doctor asks, answered by a real service."""
    folder = tmp_path_factory.mktemp("registry")
    make_registry(folder)
    with client_of(folder) as client:
        answers = {path: client.get(path) for path in ("/info", "/readyz", "/metrics", "/history")}
        answers["/search"] = client.post("/search", {"query": "apple"})
    return Said({path: (answer.status_code, answer.content) for path, answer in answers.items()})


@contextmanager
def server(said: Said, ahead_seconds: float = 0.0) -> Iterator[str]:
    """Answers so, with a clock that is so far ahead of ``NOW``; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = said.answers[self.path]
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response_only(status)
            self.send_header("Date", formatdate(NOW + ahead_seconds, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}/"
        finally:
            running.shutdown()
            thread.join()


def examine(said: Said, ahead_seconds: float = 0.0) -> dict[str, Finding]:
    with server(said, ahead_seconds) as url:
        clock = ManualClock()
        asker = Asker(url, Deadline.after(30_000, clock(), clock), now=lambda: NOW + 0.5)
        return {found.check: found for found in check_service(asker) if not found.check.startswith("latency")}


def wrong(found: Mapping[str, Finding]) -> set[str]:
    assert all(finding.advice for finding in found.values() if finding.verdict != "ok")
    return {name for name, finding in found.items() if finding.verdict == "wrong"}


def test_a_service_that_is_well_is_well(said: Said) -> None:
    found = examine(said)
    assert wrong(found) == set()
    names = {"ready", "converged", "clock", "proof", "threads", "throttling", "memory", "connections", "tokens", "budget", "late"}
    assert names <= found.keys()
    assert found["clock"].verdict == "ok"


@pytest.mark.parametrize(("ahead_seconds", "verdict"), [(-1.0, "ok"), (10.0, "warn"), (-90.0, "wrong"), (90.0, "wrong")])
def test_a_clock_that_is_off(said: Said, ahead_seconds: float, verdict: str) -> None:
    assert examine(said, ahead_seconds)["clock"].verdict == verdict


def test_a_clock_that_is_right_is_neither_ahead_nor_behind_on_average() -> None:
    """A header's second is over in part, and it may have been made up to a second ago."""
    headers = {"date": formatdate(NOW, usegmt=True)}
    replies = [Reply("", 200, headers, b"", 0.0, NOW + behind / 10) for behind in range(21)]
    skews = [skew_seconds(reply) or 0.0 for reply in replies]
    assert sum(skews) == pytest.approx(0.0, abs=1e-3)
    assert max(map(abs, skews)) <= 1.0


def test_a_snapshot_that_was_refused(said: Said) -> None:
    failure = {"code": "hash_mismatch", "reason": "model.onnx: other bytes", "snapshot": "x", "at": "now", "attempts": 2}
    refused = said.but("/info", lambda info: info.update(desired="20270101T000000Z-00000000", state="failed", last_error=failure))
    found = examine(refused)
    assert wrong(found) == {"converged"}
    assert "model.onnx: other bytes" in found["converged"].advice


def test_a_service_that_is_not_ready_and_serves_nothing(said: Said) -> None:
    def nothing(info: dict[str, Any]) -> None:
        info.update(serving=None, snapshot=None, proof=None)

    problem = {"code": "no_snapshot", "detail": "publish one"}
    silent = said.but("/info", nothing).but("/readyz", lambda body: body.update(problem), status=503)
    assert wrong(examine(silent)) == {"ready", "converged", "budget"}


def test_more_threads_than_cores(said: Said) -> None:
    assert wrong(examine(said.but("/info", lambda info: info["threads"].update(cores=1, workers=8)))) == {"threads"}


def test_a_proof_that_failed(said: Said) -> None:
    failed = said.series("scalingnote_proof_ok 1.0", "scalingnote_proof_ok 0.0")
    assert wrong(examine(failed)) == {"proof"}
    why = {"code": "hash_mismatch", "reason": "index.bin: other bytes", "at": "2026-11-28T07:00:00+00:00"}
    found = examine(failed.but("/info", lambda info: info["proof"].update(failure=why)))
    assert (wrong(found), "hash_mismatch" in found["proof"].seen) == ({"proof"}, True)
    assert "index.bin: other bytes" in found["proof"].advice


def test_live_recall_below_its_objective(said: Said) -> None:
    low = said.series("scalingnote_proof_ok 1.0", 'scalingnote_proof_ok 1.0\nscalingnote_live_recall{bound="high"} 0.5')
    assert wrong(examine(low)) == {"live_recall"}


def test_searches_that_are_refused(said: Said) -> None:
    busy = {"code": "overloaded", "detail": "later"}
    found = examine(said.but("/search", lambda body: body.update(busy), status=429))
    assert wrong(found) == {"budget"}
    assert "HTTP 429 overloaded" in found["budget"].seen


def test_searches_that_take_longer_than_the_budget(said: Said) -> None:
    assert "budget" in wrong(examine(said.but("/search", lambda body: body["timings_ms"].update(total=2000.0))))


SAMPLE = {"seconds": 5.0, "answers_per_second": 100.0, "in_budget_share": 0.5, "shed_per_second": 20.0, "failed_per_second": 10.0}


def test_traffic_is_judged_by_the_last_minutes_and_not_by_what_was_since_the_start(said: Said) -> None:
    def sampled(**instead: float) -> Said:
        return said.but("/history", lambda history: history.update(samples=[SAMPLE | instead] * 20))

    found = examine(sampled())
    assert wrong(found) == {"faults", "late", "refused"}
    seen = [found[name].seen.split(" in")[0] for name in ("faults", "late", "refused")]
    assert seen == ["600 of 7200", "2400 of 7200", "1200 of 7200"]
    past = 'scalingnote_requests_total{code="500",route="/search"} 1e+06\nscalingnote_proof_ok 1.0'
    well = sampled(in_budget_share=1.0, shed_per_second=0.0, failed_per_second=0.0)
    found = examine(well.series("scalingnote_proof_ok 1.0", past))
    assert wrong(found) == set()
    assert found["faults"].seen.startswith("0 of 6000 in the last 60 s; 100.00% since")


def test_a_file_of_api_keys_that_is_wrong(said: Said) -> None:
    assert "api_keys" not in examine(said)
    keys = said.but("/info", lambda info: info["settings"].update(api_keys_file="keys"))
    assert examine(keys)["api_keys"].verdict == "ok"
    spoiled = keys.series("scalingnote_api_keys_file_valid 1.0", "scalingnote_api_keys_file_valid 0.0")
    assert wrong(examine(spoiled)) == {"api_keys"}


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"version": 1}'])
def test_another_server_is_no_service(said: Said, body: bytes) -> None:
    other = Said({**said.answers, "/info": (200, body)})
    with server(other) as url, pytest.raises(UnreachableError, match="look at the URL"):
        examine_service(url, 30)


def test_metrics_that_are_none(said: Said) -> None:
    with server(Said({**said.answers, "/metrics": (200, b"{")})) as url, pytest.raises(UnreachableError, match="no exposition"):
        examine_service(url, 30)


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "http://127.0.0.1:1", "http://127.0.0.1:port"])
def test_what_cannot_be_asked(url: str) -> None:
    with pytest.raises(UnreachableError):
        examine_service(url, 30)


def test_the_time_for_all_questions_ends(said: Said) -> None:
    with server(said) as url, pytest.raises(UnreachableError, match="the time for all questions is over"):
        examine_service(url, 0.0)
