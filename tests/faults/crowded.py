"""Two who publish and two who activate at once."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence

from snapshot.registry import Registry
from snapshot.verify import verify
from tests.faults.fault import Fault
from tests.faults.stage import Stage, check
from tests.faults.toys import make
from tests.live import ENVIRONMENT, ROOT

_TIMES = 20
_REPEAT = """
import sys
from pathlib import Path
from snapshot.registry import Registry
registry, action, argument, times = Registry(Path(sys.argv[1])), *sys.argv[2:]
for number in range(int(times)):
    if action == "publish":
        registry.publish(Path(argument), who=argument)
    elif action == "activate":
        registry.activate(argument, str(number), who=argument)
    else:
        registry.rollback(str(number), who=argument)
"""


def faults() -> list[Fault]:
    return [
        Fault("two_publishers_of_one", "survived", _two_publishers_of_one),
        Fault("two_publishers_of_two", "survived", _two_publishers_of_two, quick=True),
        Fault("two_activators", "survived", _two_activators, quick=True),
        Fault("activator_and_roller_back", "survived", _activator_and_roller_back),
    ]


def _two_publishers_of_one(stage: Stage) -> str:
    folder = str(stage.other.root)
    _at_once(stage.registry, ("publish", folder, 1), ("publish", folder, 1), ("publish", folder, 1))
    _whole(stage.registry, 2)
    stage.want(stage.other.root.name)
    stage.becomes(stage.other.root.name)
    return "three at once; one snapshot, whole"


def _two_publishers_of_two(stage: Stage) -> str:
    second = make(stage.folder / "second", "second ")
    _at_once(stage.registry, ("publish", str(stage.other.root), 3), ("publish", str(second.root), 3))
    _whole(stage.registry, 3)
    stage.serves(stage.former)
    return "two at once, three times each; both snapshots, whole"


def _two_activators(stage: Stage) -> str:
    other = stage.bring().root.name
    before = len(stage.registry.history())
    _at_once(stage.registry, ("activate", stage.former, _TIMES), ("activate", other, _TIMES))
    events = stage.registry.history()[before:]
    changes = [event for event in events if event.action == "activate"]
    check(len(changes) == 2 * _TIMES, f"{len(changes)} of {2 * _TIMES} activations in the history")
    _chained(stage.registry, before)
    for who in (stage.former, other):
        mine = [int(event.why) for event in changes if event.who == who]
        check(mine == list(range(_TIMES)), f"the activations of {who} are not in their order: {mine}")
    stage.becomes(stage.registry.current() or "")
    return f"{2 * _TIMES} activations in one order; the last one serves"


def _activator_and_roller_back(stage: Stage) -> str:
    other = stage.bring().root.name
    before = len(stage.registry.history())
    for _ in range(_TIMES):
        stage.registry.activate(other, "to go back from", who="tests")
        stage.registry.activate(stage.former, "to go back from", who="tests")
    _at_once(stage.registry, ("activate", other, _TIMES // 2), ("rollback", "back", _TIMES // 2))
    _chained(stage.registry, before)
    stage.becomes(stage.registry.current() or "")
    return "both in one order; the last one serves"


def _at_once(registry: Registry, *doings: tuple[str, str, int]) -> None:
    """Run each in a process of its own; all must succeed."""
    running = [
        subprocess.Popen(_repeating(registry, doing), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE) for doing in doings
    ]
    for doing, process in zip(doings, running, strict=True):
        _, said = process.communicate()
        check(process.returncode == 0, f"{doing[0]} failed: {said.decode(errors='replace')[-500:]}")


def _repeating(registry: Registry, doing: Sequence[object]) -> list[str]:
    return [sys.executable, "-c", _REPEAT, str(registry.root), *map(str, doing)]


def _whole(registry: Registry, count: int) -> None:
    check(len(registry.ids()) == count, f"{registry.ids()} instead of {count} snapshots")
    for snapshot_id in registry.ids():
        verify(registry.root / snapshot_id)
    left = [path.name for path in registry.root.glob(".incoming*")]
    check(not left, f"left behind: {left}")


def _chained(registry: Registry, since: int) -> None:
    """Each line parses, each change starts from where the one before led, and CURRENT is where the last one led."""
    lines = (registry.root / "history.jsonl").read_text().splitlines()
    for line in lines:
        json.loads(line)
    changes = [event for event in registry.history()[since:] if event.action in ("activate", "rollback")]
    for before, after in itertools.pairwise(changes):
        check(after.previous == before.snapshot, f"{after} does not start from {before}")
    check(registry.current() == changes[-1].snapshot, "CURRENT is not the last line of the history")
