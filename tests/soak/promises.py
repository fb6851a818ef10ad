"""The goals of a swap, with the rows they are read from."""

from __future__ import annotations

from tests.bench.figures import Rows
from tests.bench.goals import Goal, Values, ratio, value
from tests.soak.commands import COMMANDS
from tests.soak.swaps import EACH, RUN, STEADY, SWAPPING

DEMO, MILLION = "demo", "million"
AFTER = 5
"""Swaps, after which memory is first looked at."""
SNAPSHOTS = 3
"""Swapped among in turn: what is held is compared between moments at which the same ones are open."""
_DOCUMENTS = {DEMO: "10,000 documents", MILLION: "1M documents"}


def later(group: str, figure: str) -> Values:
    """A figure as late in the run as the same snapshots are open as after ``AFTER`` swaps."""
    return lambda rows: _of_swaps(rows, group, figure)[AFTER - 1 :: SNAPSHOTS][1:][-1:]


def early(group: str, figure: str) -> Values:
    """A figure after ``AFTER`` swaps; none where there is nothing later to compare it with."""
    return lambda rows: _of_swaps(rows, group, figure)[AFTER - 1 :][:1] if later(group, figure)(rows) else []


def pause(group: str) -> Values:
    """Of the event loop, by swap: what the window of the swap has beyond the steady one before it."""

    def values(rows: Rows) -> list[float]:
        swapping, still = (_of_swaps(rows, group, figure) for figure in ("pause_ms", "steady_pause_ms"))
        return [a - b for a, b in zip(swapping, still, strict=True)]

    return values


def more(group: str, figure: str) -> Values:
    """How many more there are later."""
    return lambda rows: [a - b for a, b in zip(later(group, figure)(rows), early(group, figure)(rows), strict=True)]


def _of_swaps(rows: Rows, group: str, figure: str) -> list[float]:
    return rows.values(group, "service", EACH, figure)


def _of(group: str) -> list[Goal]:
    def run(figure: str) -> Values:
        return value(group, "service", RUN, figure)

    def p99(kind: str) -> Values:
        return value(group, "service", kind, "p99_ms")

    def goal(name: str, what: str, bound: float, values: Values, *, worst: bool = False) -> Goal:
        of_rounds = "worst" if worst else "median"
        return Goal(f"{group}_{name}", f"{_DOCUMENTS[group]}: {what}", "<=", bound, values, of_rounds)

    memory = ratio(later(group, "resident_mb"), early(group, "resident_mb"))
    return [
        goal("failed_requests", "failed requests", 0, run("failed_requests"), worst=True),
        goal("mixed_answers", "answers that mix two snapshots", 0, run("mixed_answers"), worst=True),
        goal("swap_p99_ratio", "p99 in swap windows over the steady one", 1.1, ratio(p99(SWAPPING), p99(STEADY))),
        goal("memory_ratio", "resident memory in the end over that after 5 swaps", 1.05, memory),
        goal("files_left", "open files in the end beyond those after 5 swaps", 0, more(group, "files")),
        goal("threads_left", "threads in the end beyond those after 5 swaps", 0, more(group, "threads")),
        goal("loop_pause_ms", "longest wait for `/livez` in swap windows beyond steady ones, ms", 5, pause(group)),
        goal(
            "rollback_seconds", "rollback, from command to serving, s", 2, value(group, "service", COMMANDS, "rollback_seconds")
        ),
    ]


def _of_a_million() -> list[Goal]:
    def command(figure: str) -> Values:
        return value(MILLION, "service", COMMANDS, figure)

    what = "1M documents: memory of its own, the gate's process included, for a second generation, over the index's bytes"
    return [
        Goal("million_extra_memory_share", what, "<=", 0.1, command("extra_anonymous_share")),
        Goal("million_activate_seconds", "1M documents: from command to serving, s", "<=", 15, command("activate_seconds")),
    ]


GOALS = (*_of(DEMO), *_of(MILLION), *_of_a_million())
