"""What a swap may take: everything of an idle service, its share of a busy one; and how work rests for it. Manual clocks."""

from __future__ import annotations

import pytest

from service.niceness import Pace
from service.spare import Spare


class Machine:
    """A clock, and what processor time has been taken."""

    def __init__(self) -> None:
        self.now = 100.0
        self.process = self.thread = 0.0
        self.slept: list[float] = []

    def passes(self, seconds: float, by_requests: float = 0.0, by_us: float = 0.0) -> None:
        self.now += seconds
        self.process += by_requests + by_us
        self.thread += by_us

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.passes(seconds, by_requests=seconds)

    def spare(self, least: float, cores: int) -> Spare:
        return Spare(least, cores, lambda: self.now, lambda: self.process, lambda: self.thread)


@pytest.mark.parametrize(
    ("by_requests", "share"),
    [(0.0, 1.0), (0.1, 0.9), (0.5, 0.5), (0.75, 0.25), (0.9, 0.2), (1.9, 0.2)],
)
def test_the_busier_two_cores_are_the_less_a_swap_may_take(by_requests: float, share: float) -> None:
    machine = Machine()
    spare = machine.spare(least=0.2, cores=2)
    spare.share()
    machine.passes(1.0, by_requests)
    assert spare.share() == pytest.approx(share)


def test_its_own_work_does_not_count_as_requests() -> None:
    machine = Machine()
    spare = machine.spare(least=0.2, cores=1)
    spare.share()
    machine.passes(1.0, by_us=1.0)
    assert spare.share() == 1.0


def test_it_looks_at_the_processor_ten_times_a_second_at_most() -> None:
    machine = Machine()
    spare = machine.spare(least=0.2, cores=1)
    spare.share()
    machine.passes(0.01, by_requests=0.01)
    before = spare.share()
    machine.passes(0.09)
    assert (before, spare.share()) == (0.2, pytest.approx(1 - 2 * 0.01 / 0.1))


def test_work_rests_three_times_as_long_as_it_took_where_a_quarter_is_its_share() -> None:
    machine = Machine()
    pace = Pace(clock=lambda: machine.now, spare=machine.spare(0.25, 1), cpu=lambda: machine.thread, sleep=machine.sleep)
    for _ in range(20):
        machine.passes(0.02, by_us=0.02)
        pace()
    assert machine.slept == pytest.approx([0.05, 0.01] * 20)


def test_a_long_rest_is_given_up_when_the_work_is_not_wanted_any_more() -> None:
    machine = Machine()

    def unwanted() -> None:
        raise InterruptedError

    pace = Pace(unwanted, lambda: machine.now, machine.spare(0.01, 1), lambda: machine.thread, machine.sleep)
    machine.passes(1.0, by_requests=1.0, by_us=1.0)
    with pytest.raises(InterruptedError):
        pace()
    assert sum(machine.slept) <= 0.05


@pytest.mark.parametrize(("by_requests", "share"), [(0.0, 0.05), (0.5, 0.05), (0.98, 0.02), (1.5, 0.005)])
def test_what_may_never_take_much_takes_its_most_at_most(by_requests: float, share: float) -> None:
    machine = Machine()
    spare = Spare(0.005, 2, lambda: machine.now, lambda: machine.process, lambda: machine.thread, most=0.05)
    spare.share()
    machine.passes(1.0, by_requests)
    assert spare.share() == pytest.approx(share)
    assert spare.rest_seconds(0.01) == pytest.approx(0.01 * (1 / share - 1))
