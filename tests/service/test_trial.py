"""A snapshot that one instance serves ahead of its registry: how long it holds, and what ends it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from make_snapshot import make_snapshot
from manual_clock import ManualClock
from prometheus_client import CollectorRegistry
from serving import OPERATOR, TOKEN, Client, assert_problem, client_of, tokens_file

from service.api.ops_schemas import InfoResponse, StatusModel
from service.attempts import Outcome
from service.cache_room import Room
from service.cores import ThreadPlan
from service.metrics import Metrics
from service.mirror import WHO, Mirror, MirrorOptions, MirrorState
from service.settings import Settings
from service.trial import Trials
from snapshot.registry import Desire, Registry
from snapshot.remote import Remote

BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def ids(tmp_path: Path) -> list[str]:
    made = [make_snapshot(tmp_path, rows=20 + seed, seed=seed).root.name for seed in (1, 2, 3)]
    Registry(tmp_path).activate(made[0], "first", who="tests")
    return made


@pytest.fixture
def operator(tmp_path: Path, ids: list[str]) -> Iterator[Client]:
    with client_of(tmp_path, admin_tokens_file=tokens_file(tmp_path), swap_cpu_share=1.0) as client:
        yield client


def try_(client: Client, snapshot_id: str, **body: object) -> StatusModel:
    response = client.post(f"/snapshots/{snapshot_id}/try", {"why": "a wave", **body}, headers=BEARER)
    assert response.status_code == 202, response.text
    return StatusModel.model_validate_json(response.content, strict=True)


def serving(client: Client) -> str | None:
    return client.parts.generations.serving


def test_a_trial_holds_while_the_registry_wants_what_it_wanted() -> None:
    trials, declared = Trials(ManualClock()), Desire("a", at="yesterday")
    assert trials.over(declared) is None
    trials.begin("b", declared, "a wave", "ann", 60, force=True)
    found = trials.over(Desire("a", at="yesterday"))
    assert found is not None
    assert (found.snapshot, found.forced, found.why, found.who) == ("b", True, "a wave", "ann")
    assert trials.over(Desire("c")) is None
    assert trials.over(declared) is None, "the registry has spoken: it does not begin again"


def test_wanting_anew_what_the_registry_wants_ends_a_trial() -> None:
    trials = Trials(ManualClock())
    trials.begin("b", Desire("a", at="yesterday"), "a wave", "ann", 60)
    assert trials.over(Desire("a", at="today")) is None
    assert trials.running is None


def test_a_trial_ends_with_its_time_and_when_it_is_ended() -> None:
    clock = ManualClock()
    trials = Trials(clock)
    trials.begin("b", None, "", "ann", 60)
    clock.advance_ms(59_000)
    trial = trials.running
    assert trial is not None
    assert trials.left_seconds(trial) == pytest.approx(1.0)
    clock.advance_ms(1_000)
    assert trials.running is None
    assert trials.over(None) is None
    trials.begin("b", None, "", "ann", 60)
    trials.end()
    assert trials.over(None) is None


def test_it_is_served_here_and_the_registry_knows_nothing_of_it(operator: Client, tmp_path: Path, ids: list[str]) -> None:
    assert try_(operator, ids[1], seconds=6000).desired == ids[1]
    follower = operator.parts.follower
    assert follower.converge() is Outcome.REPLACED
    assert follower.converge() is Outcome.UNCHANGED, "following does not undo it"
    assert serving(operator) == ids[1]
    assert Registry(tmp_path).current() == ids[0]
    info = InfoResponse.model_validate_json(operator.get("/info").content)
    assert info.trial is not None
    assert (info.trial.snapshot, info.trial.instead_of, info.trial.who) == (ids[1], ids[0], OPERATOR)
    assert 3000 < info.trial.ends_in_seconds <= 6000
    assert (info.desired, info.serving, info.in_flight) == (ids[1], ids[1], 0)
    response = operator.post("/snapshots/end-trial", {"why": "enough"}, headers=BEARER)
    assert (response.status_code, response.json()["desired"]) == (202, ids[0])
    assert follower.converge() is Outcome.RETURNED, "by one assignment: it is still open"
    assert serving(operator) == ids[0]
    assert operator.get("/info").json()["trial"] is None


def test_what_cannot_be_tried_is_refused_at_once(operator: Client, ids: list[str]) -> None:
    assert_problem(operator.post(f"/snapshots/{ids[0]}/try", headers=BEARER), 409, "conflict")
    assert_problem(operator.post("/snapshots/20200101T000000Z-00000000/try", headers=BEARER), 404, "not_found")
    assert_problem(operator.post(f"/snapshots/{ids[1]}/try", {"force": True}, headers=BEARER), 422, "request_invalid")
    assert operator.parts.trials.running is None


def test_activating_what_the_registry_wants_ends_a_trial(operator: Client, tmp_path: Path, ids: list[str]) -> None:
    try_(operator, ids[1])
    assert operator.parts.follower.converge() is Outcome.REPLACED
    response = operator.post(f"/snapshots/{ids[0]}/activate", {"why": "enough of that"}, headers=BEARER)
    assert response.status_code == 202
    assert operator.parts.follower.converge() is Outcome.RETURNED
    assert serving(operator) == ids[0]


def test_a_report_of_what_is_tried_is_to_be_waited_for(operator: Client, ids: list[str]) -> None:
    try_(operator, ids[1])
    assert_problem(operator.get(f"/snapshots/{ids[1]}/gate", headers=BEARER), 409, "swap_running")
    operator.parts.follower.converge()
    assert operator.get(f"/snapshots/{ids[1]}/gate", headers=BEARER).status_code == 200


def test_what_is_tried_is_brought_from_the_registry_elsewhere_and_kept(tmp_path: Path) -> None:
    source, here, remote = Registry(tmp_path / "source"), Registry(tmp_path / "here"), Remote(str(tmp_path / "store"), make=True)
    first, second = (make_snapshot(source.root, rows=20, seed=seed).root.name for seed in (1, 2))
    for one in (first, second):
        remote.push(source, one)
    remote.activate(first, "first", "ann")
    metrics, trials, moved = Metrics(CollectorRegistry(), Settings(registry=here.root), ThreadPlan(2, 2, 1)), Trials(), []
    room = Room(here, 0, WHO, lambda: first)
    mirror = Mirror(remote, here, room, MirrorOptions(), metrics.remote, lambda: moved.append(here.ids()), trials=trials)
    mirror.step()
    assert here.ids() == [first]
    trials.begin(second, here.desired(), "a wave", "ann", 60)
    assert mirror.step() is MirrorState.FOLLOWING
    assert set(moved[-1]) == {first, second}
    assert mirror.step() is MirrorState.FOLLOWING
    assert here.current() == first
    assert set(here.ids()) == {first, second}, "not tidied away before it is served"
    assert trials.over(here.desired()) == Desire(second, False, "a wave", "ann", trials.running.desire.at)  # type: ignore[union-attr]
    trials.end()
    mirror.step()
    assert here.ids() == [first]
