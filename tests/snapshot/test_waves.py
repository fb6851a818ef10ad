"""A snapshot goes to a fleet in waves; the first failure undoes what was begun, and the registry hears only of success."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import annotated_types
import pytest

from service.api.admin_schemas import TryBody
from snapshot.errors import FleetError, RegistryError, ReplicaError, ReplicaRefusedError, WaveError
from snapshot.fleet import Seen
from snapshot.waves import MOST_TRIAL_SECONDS, Order, Rollout, Time, parse_waves

OLD, NEW = "20260101T000000Z-aaaaaaaa", "20260102T000000Z-bbbbbbbb"
ORDER = Order(NEW, "newer", force=False, token="secret", wait_seconds=30, watch_seconds=5)
AT_REST = Seen("1", OLD, OLD, "serving", 0, None, None, None, None, None, None)
TRYING = replace(AT_REST, desired=NEW, tries=NEW, state="opening")
TRIED = replace(TRYING, serving=NEW, state="serving")
REFUSED = replace(TRYING, state="failed", error_code="hash_mismatch", error="index.faiss: not what was sealed")
RESTARTED = AT_REST
UNANSWERED = replace(TRIED, engine_error="engine_unavailable: http://db:19530: refused")


@dataclass
class Service:
    """Answers as told: at rest, and once it is to try, one after the other of ``then``, the last for ever; None: out of reach."""

    url: str
    then: Sequence[Seen | None] = (TRYING, TRIED)
    told: list[str] = field(default_factory=list)
    deaf: bool = False
    refuses: str = ""
    cut: bool = False
    elsewhere: bool = False
    declared: bool = False
    _looks: int = 0

    def look(self) -> Seen:
        if not any("try" in path for path in self.told):
            return AT_REST
        if self.declared and not self.elsewhere:
            return replace(TRIED, tries=None)
        seen = self.then[min(self._looks, len(self.then) - 1)]
        self._looks += 1
        if seen is None:
            raise ReplicaError(f"{self.url}: out of reach")
        return seen

    def tell(self, path: str, body: Mapping[str, object], token: str) -> None:
        assert token == "secret"
        if self.deaf and path.endswith("end-trial"):
            raise ReplicaError(f"{self.url}: out of reach")
        if self.refuses and path.endswith(self.refuses):
            raise ReplicaRefusedError(f"{self.url}{path}: 401 unauthorized: no such token")
        self.told.append(path)
        if self.cut and path.endswith("/try"):
            raise ReplicaError(f"{self.url}: out of reach")


class Passing:
    """Time that passes only where it is waited for."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def roll_out(
    fleet: Sequence[Service], waves: str = "1,100%", declare: Callable[[], object] = lambda: None
) -> tuple[list[str], float]:
    """What was said, and the seconds that it took."""
    passing, said = Passing(), list[str]()

    def heard() -> None:
        declare()
        for one in fleet:
            one.declared = True

    Rollout(ORDER, fleet, said.append, Time(lambda: passing.now, passing.sleep)).go(parse_waves(waves, len(fleet)), heard)
    return said, passing.now


def named(*services: Service) -> list[Service]:
    return [replace(one, url=f"http://replica-{number}:8000", told=[]) for number, one in enumerate(services)]


@pytest.mark.parametrize(
    ("text", "count", "sizes"),
    [
        ("1,25%,100%", 8, [1, 2, 8]),
        ("1,25%,100%", 3, [1, 3]),
        ("1, 25%, 100%", 5, [1, 2, 5]),
        ("100%", 3, [3]),
        ("2,4", 4, [2, 4]),
        ("1%,100%", 1, [1]),
    ],
)
def test_waves_are_numbers_and_shares_rounded_up(text: str, count: int, sizes: list[int]) -> None:
    assert parse_waves(text, count) == sizes


@pytest.mark.parametrize("text", ["", "x", "1,,2", "-1", "1.5", "50%", "3,1,100%", "0,100%", "200%", "9", "1,25%"])
def test_waves_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(FleetError, match="--wave"):
        parse_waves(text, 4)


@pytest.mark.parametrize("watch_seconds", [43_000.0, math.inf])
def test_waves_that_outlast_what_a_service_tries_are_not_begun_with(watch_seconds: float) -> None:
    assert TryBody.model_fields["seconds"].metadata[1] == annotated_types.Le(MOST_TRIAL_SECONDS)
    fleet = named(Service(""), Service(""))
    order = replace(ORDER, watch_seconds=watch_seconds)
    with pytest.raises(FleetError, match=r"2 waves might take \S+ s with --wait 30 and --watch .*; name less, or fewer waves"):
        Rollout(order, fleet, lambda _: None).go([1, 2], lambda: None)
    assert not any(one.told for one in fleet)


def test_each_wave_waits_for_the_one_before_and_the_registry_is_last() -> None:
    fleet = named(*[Service("")] * 4)
    declared: list[list[int]] = []
    said, seconds = roll_out(fleet, "1,50%,100%", lambda: declared.append([len(one.told) for one in fleet]))
    assert declared == [[1, 1, 1, 1]]
    assert all(one.told == [f"/snapshots/{NEW}/try"] for one in fleet)
    assert next(line for line in said if line.startswith("wave 2")) == "wave 2 of 3: http://replica-1:8000"
    assert seconds >= 3 * ORDER.watch_seconds


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (Service("", then=(TRYING, REFUSED)), "hash_mismatch: index.faiss: not what was sealed"),
        (Service("", then=(TRYING, None)), "out of reach"),
        (Service("", then=(TRYING, RESTARTED)), f"wants {OLD} again"),
        (Service("", then=(TRIED, TRIED, RESTARTED)), f"serves {OLD} again"),
        (Service("", then=(TRIED, TRIED, UNANSWERED)), "answers no search: engine_unavailable: http://db:19530"),
        (Service("", then=(TRYING,)), "not after 30 s"),
    ],
)
def test_the_first_failure_ends_it_names_the_service_and_takes_everything_back(second: Service, reason: str) -> None:
    fleet = named(Service(""), second, Service(""))
    with pytest.raises(WaveError) as caught:
        roll_out(fleet, "1,2,100%", lambda: pytest.fail("declared"))
    message = str(caught.value)
    assert reason in message
    assert "http://replica-1:8000" in message
    assert "All 2 that had begun go back" in message
    assert [one.told[-1:] for one in fleet] == [["/snapshots/end-trial"], ["/snapshots/end-trial"], []]


def test_who_cannot_be_told_to_go_back_is_named() -> None:
    fleet = named(Service("", deaf=True), Service("", then=(REFUSED,)))
    fleet[0].deaf = True
    with pytest.raises(WaveError, match=r"Out of reach to be told so: http://replica-0:8000; each goes back by itself"):
        roll_out(fleet)


def test_who_refuses_to_begin_is_not_said_to_have_begun() -> None:
    fleet = named(Service("", refuses="/try"), Service(""))
    with pytest.raises(WaveError, match=r"replica-0:8000/snapshots/.*: 401 unauthorized: no such token\. No service has begun"):
        roll_out(fleet)
    assert not any(one.told for one in fleet)
    fleet = named(Service(""), Service("", refuses="/try"))
    with pytest.raises(WaveError, match=r"replica-1:8000/.*401.*\. All 1 that had begun go back"):
        roll_out(fleet)
    assert [one.told[-1:] for one in fleet] == [["/snapshots/end-trial"], []]


def test_who_gave_no_answer_may_have_begun_and_is_told_to_go_back() -> None:
    fleet = named(Service("", cut=True), Service(""))
    with pytest.raises(WaveError, match=r"out of reach\. All 1 that had begun go back"):
        roll_out(fleet)
    assert fleet[0].told[-1] == "/snapshots/end-trial"


def test_who_refuses_to_go_back_is_told_apart_from_who_is_out_of_reach() -> None:
    fleet = named(Service("", deaf=True), Service("", refuses="/end-trial"), Service("", then=(REFUSED,)))
    said = (
        r"so: http://replica-0:8000\. Refuse to be told so: http://replica-1:8000 \(.*no such token\); each goes back by itself"
    )
    with pytest.raises(WaveError, match=said):
        roll_out(fleet)


def test_a_registry_that_cannot_be_written_takes_everything_back() -> None:
    fleet = named(Service(""), Service(""))

    def refuse() -> None:
        raise RegistryError("registry: cannot be written (Read-only file system)")

    with pytest.raises(RegistryError):
        roll_out(fleet, declare=refuse)
    assert [one.told[-1] for one in fleet] == ["/snapshots/end-trial"] * 2


def test_a_service_that_follows_another_registry_is_named() -> None:
    with pytest.raises(WaveError, match=r"replica-1:8000 has not heard of it .*--registry or --remote"):
        roll_out(named(Service(""), Service("", elsewhere=True)))


def test_a_fleet_that_is_not_whole_is_not_begun_with() -> None:
    class Busy(Service):
        def look(self) -> Seen:
            return replace(TRIED, tries="another", desired="another")

    fleet = [*named(Service("")), Busy("http://busy:8000")]
    with pytest.raises(WaveError, match=r"busy:8000: tries another already.* No service has begun"):
        roll_out(fleet)
    assert not fleet[0].told


def test_a_snapshot_that_is_on_its_way_from_a_registry_elsewhere_is_waited_for() -> None:
    missing = replace(TRYING, state="failed", error_code="snapshot_unknown", error="no snapshot", remote="pulling")
    said, _ = roll_out(named(Service("", then=(missing, missing, TRYING, TRIED))), "100%")
    assert said[-1].endswith("every one of 1 services serves it")
    gone = replace(missing, remote="failing", remote_error="s3://bucket: no such object")
    with pytest.raises(WaveError, match="no such object"):
        roll_out(named(Service("", then=(missing, gone))), "100%")
