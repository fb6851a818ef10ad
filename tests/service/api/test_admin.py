"""Operators' routes: tokens, declaring what is wanted, and going back."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from make_snapshot import make_snapshot
from serving import OPERATOR, TOKEN, Client, assert_problem, client_of, tokens_file
from structlog.testing import capture_logs

from offline.data.query_log import read_query_log
from service.api.admin_schemas import DifferencesResponse, GateResponse, SnapshotsResponse, SwapResponse
from service.api.ops_schemas import StatusModel
from service.api.status import LOADING
from service.attempts import Outcome
from service.follow import Follower
from service.gate import Check, GateReport
from service.swap import Generations, SwapState
from snapshot.errors import RegistryError
from snapshot.registry import Registry

STEPS = [SwapState.VERIFYING, SwapState.OPENING, SwapState.PROVING, SwapState.WARMING]
"""Of a service without a shadow."""
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ROUTES = [
    ("GET", "/snapshots"),
    ("GET", "/snapshots/swap"),
    ("GET", "/snapshots/worst-queries"),
    ("GET", "/snapshots/some-id/gate"),
    ("GET", "/snapshots/some-id/diff/other-id"),
    ("POST", "/snapshots/some-id/activate"),
    ("POST", "/snapshots/some-id/try"),
    ("POST", "/snapshots/rollback"),
    ("POST", "/snapshots/end-trial"),
    ("POST", "/snapshots/some-id/search"),
]


def report(snapshot: str, at: datetime, *checks: Check, **more: object) -> GateReport:
    return GateReport(snapshot, at, checks, **{"passed": all(check.passed for check in checks), "forced": False, **more})


@pytest.fixture
def ids(tmp_path: Path) -> list[str]:
    made = [make_snapshot(tmp_path, rows=20 + seed, seed=seed).root.name for seed in (1, 2)]
    Registry(tmp_path).activate(made[0], "first", who="tests")
    return made


@pytest.fixture
def operator(tmp_path: Path, ids: list[str]) -> Iterator[Client]:
    with client_of(tmp_path, admin_tokens_file=tokens_file(tmp_path, another="another-token", **{OPERATOR: TOKEN})) as client:
        yield client


@pytest.mark.parametrize("empty", [True, False], ids=["an empty file", "no file"])
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_configured_token_the_routes_are_off(
    registry: Path, tmp_path: Path, method: str, path: str, empty: bool
) -> None:
    file = tmp_path / "tokens"
    file.write_text("# nobody yet\n")
    with client_of(registry, admin_tokens_file=file if empty else None) as client, capture_logs() as logged:
        problem = assert_problem(client.request(method, path, headers=BEARER), 404, "admin_disabled")
        assert "SCALINGNOTE_ADMIN_TOKENS_FILE" in problem["detail"]
    assert [line for line in logged if line["event"] == "admin_call"] == []


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", "Basic YTpi", TOKEN, f"Bearer {TOKEN}x", "Bearer \xe9"])
def test_a_missing_or_wrong_token_is_refused(client: Client, method: str, path: str, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    response = client.request(method, path, headers=headers)
    assert_problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", [path for method, path in ROUTES if method == "POST"])
@pytest.mark.parametrize("content", [b"{", b" " * 2_000_000])
def test_a_stranger_learns_nothing_of_what_a_body_should_be(client: Client, path: str, content: bytes) -> None:
    assert_problem(client.post(path, content=content), 401, "unauthorized")


@pytest.mark.parametrize("given", [f"bearer {TOKEN}", "Bearer another-token", f"Bearer  {TOKEN} ", f" Bearer {TOKEN}\t"])
def test_any_configured_token_opens(operator: Client, ids: list[str], given: str) -> None:
    response = operator.get("/snapshots", headers={"Authorization": given})
    answer = SnapshotsResponse.model_validate_json(response.content)
    assert [row.id for row in answer.snapshots] == sorted(ids, reverse=True)
    rows = {row.id: row for row in answer.snapshots}
    assert [(rows[each].desired, rows[each].serving, rows[each].documents) for each in ids] == [
        (True, True, 21),
        (False, False, 22),
    ]
    assert all(row.bytes > 0 and 0 <= row.age_seconds < 3600 for row in answer.snapshots)
    assert rows[ids[0]].gate is not None
    assert (rows[ids[0]].gate.passed, rows[ids[1]].gate) == (True, None)


def test_tokens_are_rotated_without_a_restart(operator: Client, tmp_path: Path) -> None:
    tokens_file(tmp_path, successor="the-next-token")
    assert_problem(operator.get("/snapshots", headers=BEARER), 401, "unauthorized")
    assert operator.get("/snapshots", headers={"Authorization": "Bearer the-next-token"}).status_code == 200


def test_a_file_of_tokens_that_became_wrong_is_told_to_the_log_and_not_to_strangers(operator: Client, tmp_path: Path) -> None:
    (tmp_path / "admin-tokens").write_text("half a li")
    with capture_logs() as logged:
        problem = assert_problem(operator.get("/snapshots", headers=BEARER), 503, "admin_tokens_invalid")
    assert str(tmp_path) not in problem["detail"]
    [reason] = [line["reason"] for line in logged if line["event"] == "admin_tokens_invalid"]
    assert reason.startswith(f"{tmp_path}/admin-tokens:1: not a token")


def test_each_call_leaves_a_line(operator: Client, ids: list[str]) -> None:
    with capture_logs() as logged:
        operator.get("/snapshots", headers=BEARER)
        operator.get("/snapshots/swap", headers={"Authorization": "Bearer wrong"})
        operator.post(f"/snapshots/{ids[1]}/activate", {"why": 5}, headers=BEARER)
        last = operator.post(f"/snapshots/{ids[1]}/activate", {"why": "new"}, headers={**BEARER, "X-Request-ID": "of-the-test"})
    lines = [line for line in logged if line["event"] == "admin_call"]
    assert [(line["who"], line["route"], line["snapshot"], line["outcome"], line["log_level"]) for line in lines] == [
        (OPERATOR, "/snapshots", None, "ok", "info"),
        (None, "/snapshots/swap", None, "unauthorized", "warning"),
        (OPERATOR, "/snapshots/{snapshot_id}/activate", ids[1], "request_invalid", "warning"),
        (OPERATOR, "/snapshots/{snapshot_id}/activate", ids[1], "ok", "info"),
    ]
    assert (last.status_code, lines[-1]["request_id"], lines[-1]["method"]) == (202, "of-the-test", "POST")
    assert TOKEN not in str(logged)


def test_a_snapshot_that_cannot_be_read_is_listed_apart(operator: Client, tmp_path: Path, ids: list[str]) -> None:
    (tmp_path / ids[1] / "manifest.json").write_text('{"schema_version": 99}')
    answer = operator.get("/snapshots", headers=BEARER).json()
    assert [row["id"] for row in answer["snapshots"]] == [ids[0]]
    assert "newer" in answer["unreadable"][ids[1]]


def test_activate_declares_what_the_follower_then_serves(operator: Client, tmp_path: Path, ids: list[str]) -> None:
    response = operator.post(f"/snapshots/{ids[1]}/activate", {"why": "better recall"}, headers=BEARER)
    assert response.status_code == 202
    answer = StatusModel.model_validate_json(response.content, strict=True)
    assert (answer.desired, answer.serving) == (ids[1], ids[0])
    operator.parts.follower.converge()
    assert operator.get("/readyz").json()["snapshot"] == ids[1]
    last, outcome = Registry(tmp_path).history()[-2:]
    assert (last.action, last.snapshot, last.why) == ("activate", ids[1], "better recall")
    assert (outcome.snapshot, outcome.outcome) == (ids[1], "served")
    assert last.who == OPERATOR


def test_rollback_goes_back_to_the_one_before(operator: Client, ids: list[str]) -> None:
    operator.post(f"/snapshots/{ids[1]}/activate", headers=BEARER)
    operator.parts.follower.converge()
    response = operator.post("/snapshots/rollback", {"why": "worse"}, headers=BEARER)
    assert (response.status_code, response.json()["desired"]) == (202, ids[0])
    operator.parts.follower.converge()
    assert operator.get("/readyz").json()["snapshot"] == ids[0]


def test_rollback_without_a_snapshot_before_is_a_conflict(operator: Client) -> None:
    problem = assert_problem(operator.post("/snapshots/rollback", headers=BEARER), 409, "conflict")
    assert "nothing was active before" in problem["detail"]


def test_what_is_forced_needs_a_reason_and_is_remembered(operator: Client, tmp_path: Path, ids: list[str]) -> None:
    for body in ({"force": True}, {"force": True, "why": " "}):
        assert_problem(operator.post(f"/snapshots/{ids[1]}/activate", body, headers=BEARER), 422, "request_invalid")
    body = {"force": True, "why": "half the catalogue is meant to go"}
    assert operator.post(f"/snapshots/{ids[1]}/activate", body, headers=BEARER).status_code == 202
    desire = Registry(tmp_path).desired()
    assert desire is not None
    assert (desire.snapshot, desire.forced, desire.who, desire.why) == (ids[1], True, OPERATOR, body["why"])


@pytest.mark.parametrize("snapshot_id", ["unknown", "..", "%2e%2e", "a%00b", "CURRENT", "." * 200])
def test_what_is_not_in_the_registry_is_not_found(operator: Client, snapshot_id: str) -> None:
    assert_problem(operator.post(f"/snapshots/{snapshot_id}/activate", headers=BEARER), 404, "not_found")


@pytest.mark.parametrize("snapshot_id", ["unknown", "%2e%2e", "a%00b", "CURRENT"])
def test_nor_can_it_be_looked_at(operator: Client, ids: list[str], snapshot_id: str) -> None:
    for path in (f"{snapshot_id}/gate", f"{snapshot_id}/diff/{ids[0]}", f"{ids[0]}/diff/{snapshot_id}"):
        assert_problem(operator.get(f"/snapshots/{path}", headers=BEARER), 404, "not_found")


@pytest.mark.parametrize("state", LOADING)
def test_what_is_being_loaded_is_not_wanted_once_more_unless_by_force(operator: Client, ids: list[str], state: SwapState) -> None:
    operator.parts.generations.enter(state)
    path = f"/snapshots/{operator.parts.follower.desired}/activate"
    assert_problem(operator.post(path, headers=BEARER), 409, "swap_running")
    assert operator.get("/snapshots", headers=BEARER).json()["state"] == state.value
    assert operator.post(path, {"why": "whatever is found", "force": True}, headers=BEARER).status_code == 202


@pytest.mark.parametrize("state", STEPS)
@pytest.mark.parametrize("back", ["rollback", "{}/activate"])
def test_what_is_being_loaded_can_be_undone_at_every_step(
    operator: Client, ids: list[str], state: SwapState, back: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.post(f"/snapshots/{ids[1]}/activate", headers=BEARER)
    answers: list[int] = []
    enter = Generations.enter

    def change_mind(generations: Generations, entered: SwapState) -> None:
        enter(generations, entered)
        if entered is state and not answers:
            path = f"/snapshots/{back.format(ids[0])}"
            answers.append(operator.post(path, {"why": "the wrong one"}, headers=BEARER).status_code)

    monkeypatch.setattr(Generations, "enter", change_mind)
    assert operator.parts.follower.converge() is Outcome.SUPERSEDED
    assert operator.parts.follower.converge() is Outcome.UNCHANGED
    assert answers == [202]
    status = operator.get("/snapshots/swap", headers=BEARER).json()
    assert (status["desired"], status["serving"], status["state"]) == (ids[0], ids[0], "serving")


def test_a_rollback_by_force_needs_a_reason_and_is_remembered(operator: Client, tmp_path: Path, ids: list[str]) -> None:
    operator.post(f"/snapshots/{ids[1]}/activate", headers=BEARER)
    assert_problem(operator.post("/snapshots/rollback", {"force": True}, headers=BEARER), 422, "request_invalid")
    body = {"force": True, "why": "better than this one"}
    assert operator.post("/snapshots/rollback", body, headers=BEARER).json()["desired"] == ids[0]
    desire = Registry(tmp_path).desired()
    assert desire is not None
    assert (desire.action, desire.forced, desire.why) == ("rollback", True, body["why"])


def test_a_registry_that_cannot_be_written_is_a_fault_of_its_own(operator: Client, tmp_path: Path, ids: list[str]) -> None:
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()
    assert_problem(operator.post(f"/snapshots/{ids[1]}/activate", headers=BEARER), 503, "registry_fault")


@pytest.mark.parametrize("path", ["/snapshots/{}/activate", "/snapshots/rollback"])
def test_where_the_registry_is_read_only_the_answer_says_where_to_go(
    operator: Client, tmp_path: Path, ids: list[str], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RegistryError("cannot be written") from OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Registry, "activate", refuse)
    monkeypatch.setattr(Registry, "rollback", refuse)
    problem = assert_problem(operator.post(path.format(ids[1]), headers=BEARER), 409, "registry_read_only")
    command = "rollback" if path.endswith("rollback") else f"activate {ids[1]}"
    assert f"python -m snapshot {command} --registry" in problem["detail"]


def test_the_gates_report_has_every_check_and_the_attempts_before(
    operator: Client, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = Check("documents", 0.1, 0.8, False, True, "publish all of them")
    at = [datetime(2026, 11, 26, 12, minute, tzinfo=UTC) for minute in range(3)]
    reports = (
        report(ids[1], at[0], Check("schema", 1, 1, True, False), fails, code="gate_documents", reason="too few"),
        report(ids[0], at[1], Check("schema", 1, 1, True, False)),
        report(ids[1], at[2], Check("p99", 0.91, math.inf, True, True), fails, forced=True, why="meant to go"),
    )
    monkeypatch.setattr(Follower, "gate_reports", property(lambda _: reports))
    answer = GateResponse.model_validate_json(operator.get(f"/snapshots/{ids[1]}/gate", headers=BEARER).content)
    assert (answer.snapshot, answer.at, answer.passed, answer.forced) == (ids[1], at[2], False, True)
    assert [(check.name, check.value, check.limit, check.passed) for check in answer.checks] == [
        ("p99", 0.91, "inf", True),
        ("documents", 0.1, 0.8, False),
    ]
    assert [(each.at, each.failed_checks, each.reason) for each in answer.earlier] == [(at[0], ["documents"], "too few")]
    listed = SnapshotsResponse.model_validate_json(operator.get("/snapshots", headers=BEARER).content)
    verdicts = {row.id: row.gate for row in listed.snapshots}
    assert {each: verdict.failed_checks for each, verdict in verdicts.items() if verdict} == {
        ids[0]: [],
        ids[1]: ["documents"],
    }
    assert verdicts[ids[1]].at == at[2]


def test_a_snapshot_that_was_not_tried_here_has_no_report(
    operator: Client, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Follower, "gate_reports", property(lambda _: ()))
    problem = assert_problem(operator.get(f"/snapshots/{ids[1]}/gate", headers=BEARER), 404, "not_found")
    assert f"python -m service gate {ids[1]}" in problem["detail"]


def test_while_a_snapshot_is_tried_its_gate_says_so(operator: Client, ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"/snapshots/{ids[1]}/gate"
    operator.post(f"/snapshots/{ids[1]}/activate", headers=BEARER)
    assert "begins in a moment" in assert_problem(operator.get(path, headers=BEARER), 409, "swap_running")["detail"]
    asked: list[str] = []
    enter = Generations.enter

    def ask(generations: Generations, state: SwapState) -> None:
        enter(generations, state)
        if state in LOADING:
            asked.append(assert_problem(operator.get(path, headers=BEARER), 409, "swap_running")["detail"])

    monkeypatch.setattr(Generations, "enter", ask)
    operator.parts.follower.converge()
    answer = GateResponse.model_validate_json(operator.get(path, headers=BEARER).content)
    assert (answer.accepted, answer.running) == (True, False)
    assert [state for state in STEPS if not any(f"({state} for " in detail for detail in asked)] == []


def test_a_snapshot_that_is_tried_again_has_its_earlier_reports_meanwhile(
    operator: Client, ids: list[str], tmp_path: Path
) -> None:
    model = tmp_path / ids[1] / "query_tower" / "model.onnx"
    intact = model.read_bytes()
    model.write_bytes(intact[:-1] + b"x")
    operator.post(f"/snapshots/{ids[1]}/activate", headers=BEARER)
    operator.parts.follower.converge()

    def running() -> bool:
        response = operator.get(f"/snapshots/{ids[1]}/gate", headers=BEARER)
        return GateResponse.model_validate_json(response.content).running

    assert not running()
    operator.parts.generations.enter(SwapState.VERIFYING)
    assert running()
    (tmp_path / "CURRENT").write_bytes(b"\xff")
    assert running()


def test_two_snapshots_are_put_side_by_side(operator: Client, ids: list[str]) -> None:
    response = operator.get(f"/snapshots/{ids[0]}/diff/{ids[1]}", headers=BEARER)
    answer = DifferencesResponse.model_validate_json(response.content)
    facts = {fact.name: fact for fact in answer.facts}
    assert (answer.first, answer.second) == tuple(ids)
    assert (facts["documents"].first, facts["documents"].second, facts["documents"].equal) == (21, 22, False)
    assert facts["dim"].equal
    assert not facts["index_sha256"].equal
    same = operator.get(f"/snapshots/{ids[0]}/diff/{ids[0]}", headers=BEARER).json()
    assert all(fact["equal"] for fact in same["facts"])


def test_a_swap_is_told_step_by_step(operator: Client, ids: list[str], tmp_path: Path) -> None:
    before = SwapResponse.model_validate_json(operator.get("/snapshots/swap", headers=BEARER).content)
    assert (before.state, before.running, before.snapshot) == ("serving", False, ids[0])
    assert [step.name for step in before.steps][:2] == ["verifying", "opening"]
    assert all(step.seconds >= 0 and not step.running for step in before.steps)
    operator.parts.generations.enter(SwapState.VERIFYING)
    running = SwapResponse.model_validate_json(operator.get("/snapshots/swap", headers=BEARER).content)
    assert (running.state, running.running, running.next_attempt_seconds) == ("verifying", True, None)
    assert [(step.name, step.running) for step in running.steps] == [("verifying", True)]
    assert running.since >= before.since


def test_a_refused_swap_says_why_and_when_it_is_tried_again(operator: Client, ids: list[str], tmp_path: Path) -> None:
    model = tmp_path / ids[1] / "query_tower" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    operator.post(f"/snapshots/{ids[1]}/activate", headers=BEARER)
    operator.parts.follower.converge()
    answer = SwapResponse.model_validate_json(operator.get("/snapshots/swap", headers=BEARER).content)
    assert (answer.desired, answer.serving, answer.state, answer.snapshot) == (ids[1], ids[0], "failed", ids[1])
    assert answer.last_error is not None
    assert answer.last_error.code == "hash_mismatch"
    assert answer.next_attempt_seconds is not None
    assert 0 < answer.next_attempt_seconds <= 1


def test_a_wrong_body_changes_nothing(operator: Client, ids: list[str]) -> None:
    for body in ({"why": 5}, {"reason": "x"}, {"why": "x" * 501}, {"force": 1, "why": "x"}):
        assert_problem(operator.post(f"/snapshots/{ids[1]}/activate", body, headers=BEARER), 422, "request_invalid")
    assert operator.get("/snapshots", headers=BEARER).json()["desired"] == ids[0]


def test_where_no_queries_are_kept_it_says_how_to_keep_some(operator: Client) -> None:
    problem = assert_problem(operator.get("/snapshots/worst-queries", headers=BEARER), 404, "not_found")
    assert "SCALINGNOTE_LIVE_WORST_QUERIES" in problem["detail"]


def test_the_worst_queries_are_read_by_operators_as_a_query_log(tmp_path: Path) -> None:
    layout = make_snapshot(tmp_path, rows=30, teacher=2.0)
    Registry(tmp_path).activate(layout.root.name, "for a test", who="tests")
    settings = {"live_teacher_share": 1.0, "live_worst_queries": 2, "admin_tokens_file": tokens_file(tmp_path)}
    with client_of(tmp_path, **settings) as client:
        asked = {"apple bread", "river queen", "zinc"}
        for query in asked:
            assert client.post("/search", {"query": query}).status_code == 200
        while client.parts.live.step():
            pass
        answer = client.get("/snapshots/worst-queries", headers=BEARER)
        assert answer.headers["cache-control"] == "no-store"
        path = tmp_path / "worst.jsonl"
        path.write_bytes(answer.content)
        found = read_query_log(path)
        assert len(found) == 2
        assert set(found) < asked
        assert client.metric("scalingnote_worst_queries") == 2
        assert client.metric("scalingnote_teacher_queries") == 3
        assert client.metric("scalingnote_teacher_cosine", bound="mean") < 0.9
        assert client.metric("scalingnote_teacher_cosine_similarity_count") == 3
        assert client.metric("scalingnote_live_samples_total", work="teacher", outcome="compared") == 3
