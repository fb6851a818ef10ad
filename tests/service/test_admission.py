"""The door: who comes in, who is told to come back, and when."""

import pytest

from service.admission import FixedLimit, Limiter, Outcome
from service.errors import DrainingError, OverloadedError


def limiter(limit: int = 2, workers: int = 2, random: float = 0.5) -> Limiter:
    return Limiter(FixedLimit(limit), workers, lambda: random)


def learn(door: Limiter, service_ms: float, times: int = 200, outcome: Outcome = Outcome.DONE) -> None:
    for _ in range(times):
        door.acquire().release(service_ms, outcome)


def test_requests_beyond_the_limit_are_refused() -> None:
    door = limiter(limit=2)
    first = door.acquire()
    door.acquire()
    with pytest.raises(OverloadedError, match="2 requests are in flight"):
        door.acquire()
    first.release(1.0, Outcome.DONE)
    door.acquire()
    assert door.in_flight == 2


def test_a_token_is_given_back_once() -> None:
    door = limiter()
    token = door.acquire()
    door.acquire()
    token.release(1.0, Outcome.DONE)
    token.release(1.0, Outcome.DONE)
    assert door.in_flight == 1


@pytest.mark.parametrize(("depth", "workers", "rounds"), [(1, 2, 1), (2, 2, 1), (3, 2, 2), (8, 2, 4), (8, 1, 8)])
def test_the_wait_is_depth_times_measured_service_time(depth: int, workers: int, rounds: int) -> None:
    door = limiter(limit=100, workers=workers)
    learn(door, 20.0)
    for _ in range(depth):
        door.acquire()
    assert door.wait_ms() == pytest.approx(rounds * 20.0, rel=0.01)


def test_only_finished_requests_say_what_one_costs() -> None:
    door = limiter()
    learn(door, 20.0)
    learn(door, 0.01, outcome=Outcome.DROPPED)
    learn(door, 0.01, outcome=Outcome.FAILED)
    door.acquire()
    assert door.wait_ms() == pytest.approx(20.0, rel=0.01)


def test_retries_are_spread() -> None:
    waits = []
    for random in (0.0, 0.5, 0.999):
        door = limiter(limit=1, workers=1, random=random)
        learn(door, 20.0)
        door.acquire()
        with pytest.raises(OverloadedError) as caught:
            door.acquire()
        waits.append(caught.value.retry_after_ms)
    assert waits == pytest.approx([10.0, 20.0, 30.0], rel=0.01)


def test_a_draining_service_lets_nobody_in_and_forgets_nobody() -> None:
    door = limiter()
    token = door.acquire()
    door.drain()
    with pytest.raises(DrainingError):
        door.acquire()
    assert door.in_flight == 1
    token.release(1.0, Outcome.DONE)
    assert door.in_flight == 0


class Halving:
    """A limit that learns, to see what it is told."""

    def __init__(self) -> None:
        self.value = 4
        self.seen: list[tuple[float, int, Outcome]] = []

    def observe(self, service_ms: float, in_flight: int, outcome: Outcome) -> None:
        self.seen.append((service_ms, in_flight, outcome))
        if outcome is Outcome.DROPPED:
            self.value //= 2


def test_the_number_is_apart_from_the_counting() -> None:
    limit = Halving()
    door = Limiter(limit, 1, lambda: 0.5)
    door.acquire()
    door.acquire().release(3.0, Outcome.DROPPED)
    assert limit.seen == [(3.0, 2, Outcome.DROPPED)]
    assert door.limit == 2
    door.acquire()
    with pytest.raises(OverloadedError):
        door.acquire()
