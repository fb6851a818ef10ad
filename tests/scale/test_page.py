"""docs/scale.md says what the plan and the simulation say; the simulation is near the published bench."""

import json

import pytest

from offline.plan.figures import load_figures
from tests.scale.capacity import BENCH, DOCS, replaced
from tests.scale.page import CHECK, EXAMPLES, LOADS, PAGE, PLANS, beside_the_bench, examples, measured, simulated

PERFORMANCE = json.loads((DOCS / BENCH).read_text(encoding="utf-8"))
ANEW = "write it anew: python -m tests.scale.page"


@pytest.mark.parametrize("load", LOADS)
def test_the_simulation_is_near_the_published_bench(load: str) -> None:
    """Calibrated by capacity and single requests alone. Light loads are slower in truth: no interpreter's lock is simulated.

    The bench's machine is noisy: in two runs within an hour the p99 at 50% was 14.7 and 23 ms, where 11.9 are simulated.
    """
    ours, theirs = simulated(PERFORMANCE, load_figures(), load), measured(PERFORMANCE, load)
    assert ours.p50_ms == pytest.approx(theirs.p50_ms, rel=0.35)
    assert theirs.p99_ms / (2 if load == "50%" else 1.55) < ours.p99_ms < 1.35 * theirs.p99_ms
    assert ours.shed_share == pytest.approx(theirs.shed_share, abs=0.06)


def test_the_page_shows_the_simulation_as_it_is() -> None:
    page = (DOCS / PAGE).read_text(encoding="utf-8")
    assert page == replaced(page, *CHECK, beside_the_bench(PERFORMANCE, load_figures())), ANEW


def test_the_page_shows_the_plans_as_they_are() -> None:
    """The largest of them: all take long."""
    assert PLANS[0] in (page := (DOCS / PAGE).read_text(encoding="utf-8"))
    for line in examples(EXAMPLES[-1:]).splitlines():
        assert line in page, ANEW
