"""The choice as a table; timing on a clock that the graphs themselves move."""

import pytest
from manual_clock import ManualClock

from offline.candidates import choose, measure
from offline.config import ExportConfig
from offline.errors import ParityError
from offline.exported import Gate, Trial


def trial(name="int8-static", speedup=2.0, value=0.001):
    gate = Gate.compare("ndcg_at_10_loss", value, 0.005, "nDCG@10 lost is")
    return Trial(name=name, precision="int8", gates=(gate,), distance=1e-3, speedup=speedup, megabytes=18.0)


FP32 = Trial(name="fp32", precision="fp32", gates=(), distance=1e-13, speedup=1.0, megabytes=69.0)
LOSSY = trial("int8-static", speedup=3.0, value=0.02)
SLOW = trial("int8-per-token", speedup=1.05)


@pytest.mark.parametrize(
    ("precision", "others", "chosen", "why"),
    [
        (
            "auto",
            (trial(), trial("int8-per-token", speedup=1.8)),
            "int8-static",
            "the fastest that passes its gates, is 2.00 times",
        ),
        ("auto", (trial(), trial("int8-per-token", speedup=2.2)), "int8-per-token", "is 2.20 times as fast as fp32"),
        (
            "auto",
            (LOSSY, trial("int8-per-token")),
            "int8-per-token",
            "(refused: int8-static: nDCG@10 lost is 0.02 (at most 0.005))",
        ),
        ("auto", (LOSSY, SLOW), "fp32", "is 1.05 times as fast as fp32 on one thread, and export.min_int8_speedup is 1.1"),
        ("auto", (LOSSY,), "fp32", "no int8 passes (int8-static: nDCG@10 lost is 0.02 (at most 0.005))"),
        ("int8", (LOSSY, SLOW), "int8-per-token", "1.05 times"),
        ("fp32", (), "fp32", "the recipe asks for it"),
    ],
)
def test_the_fastest_that_passes_is_served_if_it_is_worth_it(precision, others, chosen, why):
    found, reason = choose(FP32, others, ExportConfig(precision=precision))
    assert found.name == chosen
    assert why in reason


def test_the_speedup_that_is_asked_for_is_the_recipe_s():
    assert choose(FP32, [SLOW], ExportConfig(min_int8_speedup=1.05))[0] is SLOW


def test_int8_that_is_demanded_and_fails_is_refused_with_its_figures():
    with pytest.raises(ParityError, match=r"which fails \(int8-static: nDCG@10 lost is 0.02 \(at most 0.005\)\); set it to auto"):
        choose(FP32, [LOSSY], ExportConfig(precision="int8"))


class Timed:
    """A graph whose runs take a millisecond a letter, and longer while its turn begins or something disturbs it."""

    def __init__(self, clock, factor):
        self.clock, self.factor, self.runs, self.disturbed = clock, factor, 0, ()

    def feed(self, texts):
        return texts[0]

    def run(self, feed):
        self.runs += 1
        self.clock.advance_ms(self.factor * len(feed) * (100 if self.runs in self.disturbed else 1))


def test_times_are_means_over_texts_of_medians_over_rounds():
    clock = ManualClock()
    graphs = {"slow": Timed(clock, 2), "fast": Timed(clock, 0.5)}
    graphs["fast"].disturbed = range(1, 9)  # all of its first round
    found = measure(graphs, ["aa", "bbbb", "cccccc"], clock)
    assert found == pytest.approx({"slow": 8, "fast": 2})


def test_the_first_runs_of_a_turn_do_not_count():
    clock = ManualClock()
    graph = Timed(clock, 1)
    graph.disturbed = [run for run in range(1, 200) if run % 12 in (1, 2, 3, 4)]
    assert measure({"cold": graph}, ["aaa"] * 8, clock) == pytest.approx({"cold": 3})
