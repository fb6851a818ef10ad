"""The simulation against formulas of queueing theory, and against the service's own door under the same traffic."""

import math

import numpy as np
import pytest
from simulate import Arrivals, World
from simulate import run as run_service

from offline.plan.door import Shedding
from offline.plan.simulation import Fleet, Load, Ran, simulate
from offline.plan.times import Exponential, Fixed, Measured, p99_over_mean, slowest_over_mean
from service.limits import GradientLimit

SERVICE_MS = 5.0


def offered(share: float, workers: float = 1.0, requests: int = 40_000) -> Load:
    """A share of what ``workers`` can do."""
    return Load(share * workers * 1000 / SERVICE_MS, requests)


def erlang_c(workers: int, load: float) -> float:
    """The probability to wait in M/M/c, ``load`` in Erlang (Erlang 1917)."""
    last = load**workers / math.factorial(workers) * workers / (workers - load)
    return last / (sum(load**k / math.factorial(k) for k in range(workers)) + last)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_one_server_without_memory_is_m_m_1(share: float) -> None:
    ran = simulate(Fleet(), Exponential(SERVICE_MS), offered(share))
    mean_ms = SERVICE_MS / (1 - share)
    assert ran.mean_ms == pytest.approx(mean_ms, rel=0.05)
    assert ran.quantile_ms(0.99) == pytest.approx(mean_ms * math.log(100), rel=0.1)  # the time in the system is exponential
    assert ran.busy_share == pytest.approx(share, rel=0.03)


@pytest.mark.parametrize(("workers", "share"), [(2, 0.6), (8, 0.85)])
def test_several_servers_are_m_m_c(workers: int, share: float) -> None:
    ran = simulate(Fleet(workers=workers), Exponential(SERVICE_MS), offered(share, workers, 60_000))
    wait_ms = erlang_c(workers, share * workers) * SERVICE_MS / (workers * (1 - share))
    assert ran.mean_ms - SERVICE_MS == pytest.approx(wait_ms, rel=0.12)


def test_fixed_times_are_m_d_1() -> None:
    """Pollaczek and Khinchine: half of the wait of M/M/1."""
    ran = simulate(Fleet(), Fixed(SERVICE_MS), offered(0.7))
    assert ran.mean_ms == pytest.approx(SERVICE_MS * (1 + 0.7 / (2 * 0.3)), rel=0.05)


def test_many_workers_on_one_core_are_m_g_1_with_processor_sharing() -> None:
    """Whose mean depends on the mean of the work alone (Kleinrock 1967)."""
    fleet = Fleet(workers=1000, cores=1.0)
    for times in (Fixed(SERVICE_MS), Exponential(SERVICE_MS)):
        assert simulate(fleet, times, offered(0.6)).mean_ms == pytest.approx(SERVICE_MS / 0.4, rel=0.06)


def test_work_beside_takes_from_the_same_cores() -> None:
    alone = simulate(Fleet(cores=1.0), Fixed(SERVICE_MS), offered(0.4))
    beside = simulate(Fleet(cores=1.0, beside_ms=SERVICE_MS / 2), Fixed(SERVICE_MS), offered(0.4))
    assert beside.mean_ms > 1.3 * alone.mean_ms
    idle = simulate(Fleet(beside_ms=SERVICE_MS), Fixed(SERVICE_MS), offered(0.4))
    assert idle.mean_ms == pytest.approx(simulate(Fleet(), Fixed(SERVICE_MS), offered(0.4)).mean_ms)


def test_three_replicas_at_random_are_three_queues_and_least_connections_are_nearly_one() -> None:
    load = offered(0.7, 3)
    random = simulate(Fleet(3, balancing="random"), Exponential(SERVICE_MS), load).mean_ms
    turns = simulate(Fleet(3, balancing="round_robin"), Exponential(SERVICE_MS), load).mean_ms
    least = simulate(Fleet(3), Exponential(SERVICE_MS), load).mean_ms
    shared = SERVICE_MS + erlang_c(3, 2.1) * SERVICE_MS / (3 * 0.3)
    assert random == pytest.approx(SERVICE_MS / 0.3, rel=0.06)
    assert shared < least < turns < random


def test_a_seed_repeats_and_another_does_not() -> None:
    def run(seed: int) -> Ran:
        return simulate(Fleet(2, 2), Exponential(SERVICE_MS), Load(500.0, 3000, seed), Shedding(50.0))

    assert np.array_equal(run(1).latencies_ms, run(1).latencies_ms)
    assert not np.array_equal(run(1).latencies_ms, run(2).latencies_ms)


@pytest.mark.parametrize("load", [0.7, 1.2, 3.0])
def test_the_door_does_what_the_services_own_does(load: float) -> None:
    """The same traffic through ``service.admission`` and ``service.limits`` in tests/simulate.py."""
    sigma, workers, budget_ms, seconds = 0.3, 2, 50.0, 40.0 / load
    per_second = load * workers * 1000 / SERVICE_MS
    world = World((Arrivals(per_second, budget_ms=budget_ms),), lambda _: SERVICE_MS, seconds, workers, sigma)
    theirs = run_service(world, GradientLimit(workers, 256))
    begin = 0.1 * seconds
    spread = np.random.default_rng(3).lognormal(math.log(SERVICE_MS), sigma, 20_000)
    traffic = Load(per_second, int(per_second * seconds))
    ours = simulate(Fleet(workers=workers), Measured.of(spread.tolist()), traffic, Shedding(budget_ms))
    assert 1 - ours.shed_share == pytest.approx(theirs.kept(begin, seconds) * theirs.admitted(begin, seconds), abs=0.03)
    answered = [each.latency_ms for each in theirs.of(begin, seconds) if each.outcome == "done"]
    for share in (0.5, 0.99):
        assert ours.quantile_ms(share) == pytest.approx(float(np.quantile(answered, share)), rel=0.2)


def test_hosts_do_not_share_their_cores() -> None:
    """Three replicas with a core each are as three at random; three on one core are one with a third of the work each."""
    apart = simulate(Fleet(3, 1000, hosts=3, cores=1.0, balancing="random"), Exponential(SERVICE_MS), offered(0.6, 3))
    assert apart.mean_ms == pytest.approx(SERVICE_MS / 0.4, rel=0.06)
    together = simulate(Fleet(3, 1000, cores=1.0, balancing="random"), Exponential(SERVICE_MS), offered(0.6))
    assert together.mean_ms == pytest.approx(SERVICE_MS / 0.4, rel=0.06)


def test_shedding_keeps_the_latency_where_an_open_door_loses_it() -> None:
    load = offered(1.5, requests=10_000)
    guarded = simulate(Fleet(), Exponential(SERVICE_MS), load, Shedding(50.0))
    assert guarded.quantile_ms(0.99) < 75.0
    assert guarded.shed_share == pytest.approx(1 / 3, abs=0.06)
    assert simulate(Fleet(), Exponential(SERVICE_MS), load).quantile_ms(0.5) > 1000.0


def test_a_fixed_limit_bounds_what_is_in_flight() -> None:
    """With a limit of one nobody waits: Erlang's loss formula, B(1, a) = a / (1 + a)."""
    ran = simulate(Fleet(), Exponential(SERVICE_MS), offered(0.8), Shedding(1e9, most=1, adaptive=False))
    assert ran.shed_share == pytest.approx(0.8 / 1.8, abs=0.01)


def test_a_measured_distribution_keeps_its_mean_and_quantiles() -> None:
    samples = np.random.default_rng(0).exponential(4.0, 50_000)
    times = Measured.of(samples.tolist())
    assert times.mean_ms() == pytest.approx(4.0, rel=0.03)
    assert times.with_mean(8.0).quantile_ms(0.5) == pytest.approx(8 * math.log(2), rel=0.03)


def test_the_slowest_of_many_is_the_harmonic_number_of_exponentials() -> None:
    """Whose greatest of n has the mean H(n) times that of one."""
    times = Measured.of(np.random.default_rng(0).exponential(1.0, 200_000).tolist())
    assert slowest_over_mean(times, 8) == pytest.approx(sum(1 / n for n in range(1, 9)), rel=0.06)
    assert slowest_over_mean(times, 1) == pytest.approx(1.0, rel=0.01)
    assert p99_over_mean(times, 4) > p99_over_mean(times)
