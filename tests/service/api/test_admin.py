"""Operators' routes: tokens, declaring what is wanted, and going back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from make_snapshot import make_snapshot
from serving import TOKEN, Client, assert_problem, client_of

from service.api.schemas import SnapshotsResponse, StatusModel
from service.swap import SwapState
from snapshot.registry import Registry

BEARER = {"Authorization": f"Bearer {TOKEN}"}
ROUTES = [("GET", "/snapshots"), ("POST", "/snapshots/some-id/activate"), ("POST", "/snapshots/rollback")]


@pytest.fixture
def ids(tmp_path: Path) -> list[str]:
    made = [make_snapshot(tmp_path, rows=20, seed=seed).root.name for seed in (1, 2)]
    Registry(tmp_path).activate(made[0], "first", who="tests")
    return made


@pytest.fixture
def operator(tmp_path: Path, ids: list[str]) -> Iterator[Client]:
    with client_of(tmp_path, admin_tokens=f"another-token-of-the-tests,{TOKEN}") as client:
        yield client


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_configured_token_the_routes_are_off(registry: Path, method: str, path: str) -> None:
    with client_of(registry) as client:
        problem = assert_problem(client.request(method, path, headers=BEARER), 403, "admin_disabled")
        assert "SCALINGNOTE_ADMIN_TOKENS" in problem["detail"]


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


@pytest.mark.parametrize("token", [TOKEN, "another-token-of-the-tests"])
def test_any_configured_token_opens(operator: Client, ids: list[str], token: str) -> None:
    response = operator.get("/snapshots", headers={"Authorization": f"bearer {token}"})
    answer = SnapshotsResponse.model_validate_json(response.content)
    assert {row.id: (row.desired, row.serving) for row in answer.snapshots} == {ids[0]: (True, True), ids[1]: (False, False)}
    assert all(row.bytes > 0 and row.documents == 20 for row in answer.snapshots)


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
    assert last.who.startswith("admin API")


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


@pytest.mark.parametrize("snapshot_id", ["unknown", "..", "%2e%2e", "a%00b", "CURRENT", "." * 200])
def test_what_is_not_in_the_registry_is_not_found(operator: Client, snapshot_id: str) -> None:
    assert_problem(operator.post(f"/snapshots/{snapshot_id}/activate", headers=BEARER), 404, "not_found")


@pytest.mark.parametrize("state", [SwapState.VERIFYING, SwapState.OPENING, SwapState.PROVING, SwapState.WARMING])
def test_while_a_swap_runs_another_is_refused(operator: Client, ids: list[str], state: SwapState) -> None:
    operator.parts.generations.enter(state)
    for path in (f"/snapshots/{ids[1]}/activate", "/snapshots/rollback"):
        assert_problem(operator.post(path, headers=BEARER), 409, "swap_running")
    assert operator.get("/snapshots", headers=BEARER).json()["state"] == state.value


def test_a_registry_that_cannot_be_written_is_a_fault_of_its_own(operator: Client, tmp_path: Path, ids: list[str]) -> None:
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()
    assert_problem(operator.post(f"/snapshots/{ids[1]}/activate", headers=BEARER), 503, "registry_fault")


def test_a_wrong_body_changes_nothing(operator: Client, ids: list[str]) -> None:
    for body in ({"why": 5}, {"reason": "x"}, {"why": "x" * 501}):
        assert_problem(operator.post(f"/snapshots/{ids[1]}/activate", body, headers=BEARER), 422, "request_invalid")
    assert operator.get("/snapshots", headers=BEARER).json()["desired"] == ids[0]
