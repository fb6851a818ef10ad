"""The door: who comes in, who is told to come back, and when."""

import pytest
from manual_clock import ManualClock

from service.admission import Lane, Limiter, Shares
from service.errors import DrainingError, OverloadedError
from service.limits import FixedLimit, Outcome


def limiter(limit: int = 2, workers: int = 2, random: float = 0.5, shares: Shares | None = None) -> Limiter:
    return Limiter(FixedLimit(limit), workers, lambda: random, shares)


def learn(
    door: Limiter, service_ms: float, times: int = 200, outcome: Outcome = Outcome.DONE, lane: Lane = Lane.SEARCH, items: int = 1
) -> None:
    for _ in range(times):
        door.acquire(lane, items).release(service_ms, 0.0, outcome)


def fill(door: Limiter, lane: Lane) -> int:
    """How many more of a lane come in."""
    count = 0
    while True:
        try:
            door.acquire(lane)
        except OverloadedError:
            return count
        count += 1


def test_requests_beyond_the_limit_are_refused() -> None:
    door = limiter(limit=2)
    first = door.acquire()
    door.acquire()
    with pytest.raises(OverloadedError, match="2 requests are in flight, 2 of them search, the limit"):
        door.acquire()
    first.release(1.0, 0.0, Outcome.DONE)
    door.acquire()
    assert door.in_flight == 2


@pytest.mark.parametrize(
    ("queued_ms", "left_ms", "patience_ms"),
    [
        (0.0, 50.0, 40.0),  # a burst: 0.85 of what is left, less the work itself
        (100.0, 50.0, 40.0),
        (100.1, 50.0, 25.0),  # a queue that has outlasted two budgets
        (100.1, 20.0, 8.5),
        (0.0, 1.0, 0.0),  # never below nothing: where a thread is free, less effort may still fit
    ],
)
def test_a_burst_may_wait_longer_than_a_queue_that_stays(queued_ms: float, left_ms: float, patience_ms: float) -> None:
    clock = ManualClock()
    door = Limiter(FixedLimit(9), 2, lambda: 0.5, clock=clock)
    learn(door, 2.5)
    door.acquire()
    door.acquire()
    clock.advance_ms(queued_ms)
    door.acquire()  # one more does not begin a new queue
    assert door.patience_ms(Lane.SEARCH, left_ms, budget_ms=50.0) == pytest.approx(patience_ms)


def test_a_queue_is_as_old_as_the_last_moment_with_a_free_thread() -> None:
    clock = ManualClock()
    door = Limiter(FixedLimit(9), 2, lambda: 0.5, clock=clock)
    first, second = door.acquire(), door.acquire()
    clock.advance_ms(30.0)
    assert door.queued_ms() == pytest.approx(30.0)
    first.release(1.0, 0.0, Outcome.DONE)
    assert door.queued_ms() == 0.0
    door.acquire()
    clock.advance_ms(5.0)
    assert door.queued_ms() == pytest.approx(5.0)
    second.release(1.0, 0.0, Outcome.DONE)
    assert door.queued_ms() == 0.0


def test_a_token_is_given_back_once() -> None:
    door = limiter()
    token = door.acquire()
    door.acquire()
    token.release(1.0, 0.0, Outcome.DONE)
    token.release(1.0, 0.0, Outcome.DONE)
    assert door.in_flight == 1


@pytest.mark.parametrize(("depth", "workers", "rounds"), [(1, 2, 0.5), (2, 2, 1), (3, 2, 1.5), (8, 2, 4), (8, 1, 8)])
def test_the_wait_is_depth_times_measured_service_time(depth: int, workers: int, rounds: float) -> None:
    door = limiter(limit=100, workers=workers)
    learn(door, 20.0)
    for _ in range(depth):
        door.acquire()
    assert door.wait_ms() == pytest.approx(rounds * 20.0, rel=0.01)


def test_only_finished_requests_say_what_one_costs() -> None:
    door = limiter(workers=1)
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
    token.release(1.0, 0.0, Outcome.DONE)
    assert door.in_flight == 0


def test_searches_may_use_what_the_others_leave() -> None:
    assert fill(limiter(limit=20), Lane.SEARCH) == 20


@pytest.mark.parametrize(("limit", "embed", "batch"), [(20, 4, 2), (100, 20, 10), (1, 1, 1)])
def test_the_others_never_exceed_their_shares(limit: int, embed: int, batch: int) -> None:
    door = limiter(limit=limit, shares=Shares(embed=0.2, batch=0.1))
    assert (fill(door, Lane.EMBED), fill(door, Lane.BATCH)) == (embed, batch)


@pytest.mark.parametrize("first", list(Lane))
def test_every_lane_gets_its_share_whatever_came_before(first: Lane) -> None:
    door = limiter(limit=20, shares=Shares(embed=0.2, batch=0.1))
    fill(door, first)
    for lane in Lane:
        fill(door, lane)
    assert (door.depth(Lane.EMBED), door.depth(Lane.BATCH)) == (4, 2)
    assert door.depth(Lane.SEARCH) >= door.share(Lane.SEARCH) == 14
    assert door.in_flight <= 20 + 4 + 2


def test_what_searches_borrowed_goes_back_as_they_end() -> None:
    door = limiter(limit=20, shares=Shares(embed=0.2, batch=0.1))
    searches = [door.acquire(Lane.SEARCH) for _ in range(20)]
    fill(door, Lane.EMBED)
    for token in searches[:4]:
        token.release(1.0, 0.0, Outcome.DONE)
    assert door.in_flight == 20
    assert fill(door, Lane.SEARCH) == 0


def test_a_batch_waits_for_the_items_of_batches_a_search_for_their_turn_only() -> None:
    door = limiter(limit=100, workers=2)
    learn(door, 1000.0, lane=Lane.BATCH, items=500)  # 2 ms each
    learn(door, 10.0, lane=Lane.SEARCH)
    door.acquire(Lane.BATCH, items=1000)
    assert door.wait_ms(Lane.BATCH) == pytest.approx(1000 * 2 / 2, rel=0.01)
    assert door.wait_ms(Lane.SEARCH) == pytest.approx(1 * 2 / 2, rel=0.01)
    door.acquire(Lane.SEARCH)
    assert door.wait_ms(Lane.SEARCH) == pytest.approx((2 + 10) / 2, rel=0.01)


def test_who_would_wait_beyond_its_budget_is_refused_at_the_door() -> None:
    door = limiter(limit=100, workers=2)
    learn(door, 10.0)
    for _ in range(5):
        door.acquire()  # 4 of 5 are in the way of a newcomer
    with pytest.raises(OverloadedError, match="would wait about 20 ms"):
        door.acquire(budget_ms=19.0)
    with pytest.raises(OverloadedError, match="would wait about 20 ms"):
        door.knock(Lane.SEARCH, budget_ms=19.0)
    door.knock(Lane.SEARCH, budget_ms=21.0)
    assert door.in_flight == 5
    door.acquire(budget_ms=21.0)


def test_nobody_is_refused_for_time_while_a_thread_is_free() -> None:
    door = limiter(limit=100, workers=2)
    learn(door, 1e6)
    door.acquire(budget_ms=0.1)
    door.acquire(budget_ms=0.1)
    with pytest.raises(OverloadedError):
        door.acquire(budget_ms=0.1)


@pytest.mark.parametrize("lane", [Lane.EMBED, Lane.BATCH])
def test_no_request_is_refused_for_its_own_work_while_a_thread_is_free(lane: Lane) -> None:
    door = limiter(limit=100, workers=2)
    learn(door, 10.0, lane=lane, items=10)
    for _ in range(50):
        door.acquire(lane, items=1000, budget_ms=1.0).release(0.0, 0.0, Outcome.DROPPED)


def queued(clock: ManualClock) -> Limiter:
    """Two searches before one thread; an embedding's text was last seen, now, to take 1 ms."""
    door = Limiter(FixedLimit(100), 1, lambda: 0.5, clock=clock)
    learn(door, 10.0, lane=Lane.EMBED, items=10)
    learn(door, 10.0)
    door.acquire()
    door.acquire()
    return door


def test_a_batch_is_refused_in_a_queue_where_its_own_items_outlast_its_budget() -> None:
    door = queued(ManualClock())
    with pytest.raises(OverloadedError, match="would wait about 109 ms"):
        door.acquire(Lane.EMBED, items=100, budget_ms=108.0)
    door.acquire(Lane.EMBED, items=100, budget_ms=110.0)


def test_what_was_learned_long_ago_is_not_held_against_a_batch_until_one_was_measured() -> None:
    clock = ManualClock()
    door = queued(clock)
    clock.advance_ms(9_999.0)
    with pytest.raises(OverloadedError):
        door.acquire(Lane.EMBED, items=100, budget_ms=50.0)
    clock.advance_ms(1.0)
    one = door.acquire(Lane.EMBED, items=100, budget_ms=50.0)
    with pytest.raises(OverloadedError):  # one is at work, and will say
        door.acquire(Lane.EMBED, items=100, budget_ms=50.0)
    one.release(40.0, 0.0, Outcome.DROPPED)
    with pytest.raises(OverloadedError):  # it has said that they do not fit
        door.acquire(Lane.EMBED, items=100, budget_ms=50.0)


@pytest.mark.parametrize(("dropped_ms", "wait_ms"), [(2_000.0, 20.0), (500.0, 10.0)])
def test_a_batch_that_was_given_up_shows_what_an_item_takes_at_least(dropped_ms: float, wait_ms: float) -> None:
    door = limiter(limit=100, workers=1)
    learn(door, 1_000.0, lane=Lane.BATCH, items=100)
    learn(door, dropped_ms, lane=Lane.BATCH, items=100, outcome=Outcome.DROPPED)
    door.acquire(Lane.BATCH)
    assert door.wait_ms(Lane.BATCH) == pytest.approx(wait_ms, rel=0.01)


def test_nobody_is_told_to_come_back_in_no_time() -> None:
    door = limiter(limit=1, workers=1)
    learn(door, 0.0)
    door.acquire()
    with pytest.raises(OverloadedError, match="retry in 1 ms") as caught:
        door.acquire()
    assert caught.value.retry_after_ms == 1.0


@pytest.mark.parametrize("lane", [Lane.EMBED, Lane.BATCH])
def test_a_free_thread_is_lent_beyond_the_share_and_searches_find_their_places(lane: Lane) -> None:
    door = limiter(limit=9, workers=8, shares=Shares(embed=0.2, batch=0.2))
    assert fill(door, lane) == 8
    assert fill(door, Lane.SEARCH) == door.share(Lane.SEARCH) == 7
    assert limiter(limit=2, workers=8).share(lane) == fill(limiter(limit=2, workers=8), lane) == 1


@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.DROPPED])
def test_nobody_is_refused_on_a_guess(outcome: Outcome) -> None:
    door = limiter(limit=100, workers=1)
    learn(door, 1000.0, times=5 if outcome is Outcome.DONE else 500, outcome=outcome)
    for _ in range(50):
        door.acquire(budget_ms=1.0)


class Halving:
    """A limit that learns, to see what it is told."""

    def __init__(self) -> None:
        self.value = 4
        self.seen: list[tuple[float, float, int, Outcome]] = []
        self.times_used_up = 0

    def used_up(self) -> None:
        self.times_used_up += 1

    def observe(self, service_ms: float, queue_ms: float, budget_ms: float, in_flight: int, outcome: Outcome) -> None:
        self.seen.append((service_ms, queue_ms, in_flight, outcome))
        if outcome is Outcome.DROPPED:
            self.value //= 2


def test_the_number_is_apart_from_the_counting() -> None:
    limit = Halving()
    door = Limiter(limit, 1, lambda: 0.5)
    door.acquire()
    door.acquire(Lane.SEARCH).release(3.0, 7.0, Outcome.DROPPED)
    door.acquire(Lane.BATCH, items=10).release(20.0, 1.0, Outcome.DONE)
    assert limit.seen == [(3.0, 7.0, 2, Outcome.DROPPED), (2.0, 1.0, 2, Outcome.DONE)]
    assert (door.limit, limit.times_used_up) == (2, 0)
    door.acquire()
    with pytest.raises(OverloadedError):
        door.acquire()
    assert limit.times_used_up == 1
