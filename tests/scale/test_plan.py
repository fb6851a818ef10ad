"""What the check of the simulation is made of, without servers: the balancer, the calibration, the errors."""

import math
import socket
import threading
from contextlib import contextmanager

import pytest

from offline.plan.times import Measured
from tests.bench.client import get
from tests.scale.balance import Balanced
from tests.scale.local import COMPUTES, WAITS
from tests.scale.plan import Calibration, Compared, Seen, _goals, main

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CONNECTIONS = 8


@contextmanager
def answering(release: threading.Event):
    """A port that answers every request once ``release`` is set, and how many it got."""
    got: list[int] = []

    def serve(accepted: socket.socket) -> None:
        with accepted:
            while accepted.recv(4096):
                got.append(1)
                release.wait(30)
                accepted.sendall(ANSWER)

    def accept() -> None:
        for _ in range(CONNECTIONS):
            threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1], got
        release.set()


def test_requests_go_where_the_fewest_are_under_way() -> None:
    go, stop = threading.Event(), threading.Event()
    go.set()
    with answering(go) as (quick, _), answering(stop) as (slow, _), Balanced([quick, slow], 2 * CONNECTIONS) as wire:
        ended = []
        for number in range(12):
            wire.send(number, get("/"))
            while len(ended) < number - len(wire.under_way(slow)):  # until the quick one has answered all it was sent
                ended += [answer.connection for answer in wire.wait(1.0)]
        assert len(wire.under_way(slow)) <= 2
        assert len(ended) == len(set(ended)) >= 9
        stop.set()
        while len(ended) < 12:
            ended += [answer.connection for answer in wire.wait(1.0)]
        assert sorted(ended) == list(range(12))


def test_what_replicas_can_do_is_bounded_by_the_cores_they_share() -> None:
    known = Calibration(Measured.of([4.0] * 9), capacity=250.0, cpu_ms=5.0)
    assert known.most(WAITS, 3) == 750
    assert known.most(COMPUTES, 1) == 250
    assert known.most(COMPUTES, 3) == 2 * 1000 / 5
    assert known.fleet(COMPUTES, 3).beside_ms == pytest.approx(1.0)
    assert known.fleet(WAITS, 3).cores is None


def test_errors_are_of_the_same_round() -> None:
    measured = (Seen(10.0, 20.0, 0.0), Seen(20.0, 40.0, 0.0), Seen(10.0, 20.0, 0.0))
    simulated = (Seen(11.0, 30.0, 0.0), Seen(22.0, 30.0, 0.0), Seen(11.0, 20.0, 0.0))
    found = Compared("waits", 1, 0.5, (1.0, 1.0, 1.0), measured, simulated)
    assert found.error("p50_ms") == pytest.approx(0.1)
    assert found.error("p99_ms") == pytest.approx(0.0)


def test_goals_are_of_what_could_be_compared(capsys: pytest.CaptureFixture[str]) -> None:
    def compared(share: float, simulated: Seen) -> Compared:
        return Compared("waits", 1, share, (1.0,), (Seen(10.0, 20.0, 0.1),), (simulated,))

    found = [
        compared(0.5, Seen(10.0, 22.0, 0.12)),
        compared(0.7, Seen(math.nan, math.nan, 0.1)),
        compared(1.5, Seen(1.0, 1.0, 0.1)),
    ]
    assert _goals("waits", found)
    assert capsys.readouterr().out.splitlines() == [
        "GOAL plan_waits_p99_error 0.100 <=0.25 ok",
        "GOAL plan_waits_shed_difference 0.000 <=0.05 ok",
        "GOAL plan_waits_shed_difference_busy 0.000 <=0.05 ok",
    ]
    assert not _goals("waits", [*found, *found, compared(1.5, Seen(1.0, 1.0, 0.9))])
    assert not _goals("waits", [compared(0.5, Seen(10.0, 40.0, 0.1))])
    assert not _goals("waits", [compared(0.7, Seen(math.nan, math.nan, 0.1))])


def test_a_kind_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--kind", "sleeps"])
    assert left.value.code == 2
    assert "waits" in capsys.readouterr().err
