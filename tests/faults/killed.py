"""kill -9 at every step of a publication, an activation and a swap, and SIGTERM in mid-swap: the old or the new, never half."""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from service.swap import SwapState
from snapshot.errors import KeyFileError, SnapshotError
from snapshot.keys import generate, read_private_key, read_public_keys
from snapshot.registry import Registry
from snapshot.signing import Trust
from snapshot.verify import verify
from tests.faults.fault import Fault
from tests.faults.searches import Searches
from tests.faults.stage import PATIENCE_SECONDS, Ended, Stage, check, command, serving
from tests.faults.stalled_service import CLOSING, REACHED
from tests.faults.toys import FORMER, OTHER, make
from tests.live import Live, until

_KILLED = -signal.SIGKILL
_STALLED = "tests.faults.stalled_service"
_STEPS_OF_A_SWAP = [
    *(state.value for state in SwapState if state not in (SwapState.IDLE, SwapState.FAILED, SwapState.DRAINING)),
    CLOSING,
]
_FLAGS: dict[str, tuple[str, ...]] = {
    CLOSING: ("--keep-former", "false", "--watch-seconds", "0"),
    SwapState.SHADOWING: ("--shadow-share", "1", "--shadow-queries", "20", "--shadow-seconds", "5"),
}
"""With which a swap comes to a state that it does not come to otherwise."""
_FEW = 5


def faults() -> list[Fault]:
    """Of commands, then of the service."""
    return [
        Fault("killed_publish", "survived", _killed_publish),
        Fault("killed_activate", "survived", _killed_activate, quick=True),
        Fault("killed_rollback", "survived", _killed_rollback),
        Fault("killed_sign", "survived", _killed_sign),
        Fault("killed_keygen", "survived", _killed_keygen),
        *(
            Fault(f"killed_swap_{step}", "survived", partial(_killed_swap, step=step), step == "proving")
            for step in _STEPS_OF_A_SWAP
        ),
        *(
            Fault(f"sigterm_while_{step}", "survived", partial(_ended_swap, step=step), step == "opening")
            for step in _STEPS_OF_A_SWAP
        ),
    ]


@dataclass(frozen=True)
class Doing:
    """A change of a registry that is killed, and done again.

    Attributes:
        is_done: whether it was done when it was killed, so that doing it again would be another change.
    """

    registry: Registry
    action: str
    argument: str
    environment: Mapping[str, str] = field(default_factory=dict)
    is_done: Callable[[], bool] = lambda: False

    def killed_before(self, step: int) -> Ended:
        """Run it; with step 0 to its end."""
        given = (str(step), self.action, str(self.registry.root), self.argument)
        return command(*given, program=("-m", "tests.faults.dying"), environment=self.environment)


def at_every_step(doing: Doing, undo: Callable[[], None], holds: Callable[[], None], *, thorough: bool) -> str:
    """Kill it before each step; ``holds`` must hold after each, and it must succeed when it is done again.

    Threads make the number of steps differ from run to run: it ends with the first that is over before its step.
    """
    total = int(doing.killed_before(0).done(doing.action).splitlines()[-1])
    kills = 0
    for step in itertools.count(1, 1 if thorough else max(1, total // _FEW)):
        undo()
        ended = doing.killed_before(step)
        if ended.code == 0:
            break
        check(ended.code == _KILLED, f"to be killed before step {step} of {total}: {ended.code} {ended.said[-300:]}")
        kills += 1
        _readable(doing.registry)
        holds()
        if not doing.is_done():
            doing.killed_before(0).done(f"{doing.action} after a kill before step {step} of {total}")
        _readable(doing.registry)
    check(kills >= min(total, _FEW), f"killed {kills} times only, of {total} steps")
    undo()
    return f"killed {kills} times, before {'each step' if thorough else 'some of the steps'}, and done again"


def remove(registry: Registry, snapshot_id: str) -> None:
    """Undo what brought a snapshot; what is there must be whole."""
    if snapshot_id in registry.ids():
        check(_intact(registry, snapshot_id), "half a snapshot was left")
        shutil.rmtree(registry.root / snapshot_id)


def _killed_publish(stage: Stage) -> str:
    """Into the registry that serves, which must not notice."""
    snapshot_id = stage.other.root.name
    doing = Doing(stage.registry, "publish", str(stage.other.root))
    undo = partial(remove, stage.registry, snapshot_id)
    said = at_every_step(doing, undo, lambda: stage.serves(stage.former), thorough=stage.thorough)
    stage.registry.publish(stage.other.root, who="tests")
    stage.want(snapshot_id)
    stage.becomes(snapshot_id)
    return said


def _killed_activate(stage: Stage) -> str:
    snapshot_id = stage.bring().root.name
    doing = Doing(stage.registry, "activate", snapshot_id)
    said = at_every_step(doing, partial(_back, stage), partial(_wanted, stage, snapshot_id), thorough=stage.thorough)
    stage.registry.activate(snapshot_id, "after all", who="tests")
    stage.becomes(snapshot_id)
    return said


def _killed_rollback(stage: Stage) -> str:
    snapshot_id = stage.bring().root.name

    def forward() -> None:
        stage.registry.activate(snapshot_id, "to be rolled back", who="tests")

    forward()
    doing = Doing(stage.registry, "rollback", "a fault", is_done=lambda: stage.registry.current() == stage.former)
    said = at_every_step(doing, forward, partial(_wanted, stage, snapshot_id), thorough=stage.thorough)
    check(stage.registry.rollback("after all", who="tests").id == stage.former, "rollback led elsewhere after the kills")
    stage.becomes(stage.former)
    return said


def _killed_sign(stage: Stage) -> str:
    """In place of the signature of another key: the one or the other, and the snapshot is whole."""
    registry, _, other = _two(stage.folder)
    folder = registry.root / other
    pairs = [(stage.folder / name, stage.folder / f"{name}.pub") for name in ("former-key", "key")]
    for private, public in pairs:
        generate(private, public)
    either = Trust.load([public for _, public in pairs], required=True)

    def signed_before() -> None:
        registry.sign(other, pairs[0][0])

    signed_before()
    said = at_every_step(Doing(registry, "sign", other), signed_before, lambda: _trusted(folder, either), thorough=stage.thorough)
    registry.sign(other, pairs[1][0])
    verify(folder, trust=Trust.load([pairs[1][1]], required=True))
    registry.gc(9)
    left = [path.name for path in registry.root.iterdir() if path.name.endswith(".tmp")]
    check(not left, f"gc left {left}")
    return said


def _trusted(folder: Path, trust: Trust) -> None:
    check(verify(folder, trust=trust).id == folder.name, "not the snapshot that was signed")


def _killed_keygen(stage: Stage) -> str:
    """No half key under its name; the remedy that the next attempt names is one."""
    private, public = stage.folder / "made", stage.folder / "made.pub"

    def undo() -> None:
        for path in (private, public):
            path.unlink(missing_ok=True)

    def holds() -> None:
        check(not public.exists() or private.exists(), "a public key without its private one")
        for path, read in ((private, read_private_key), (public, read_public_keys)):
            check(not path.exists() or bool(read(path)), f"{path.name} is half")
        if private.exists():
            check(private.stat().st_mode & 0o077 == 0, "others may read the private key")
            check(_refused(private, public), "a key was overwritten")
            undo()

    said = at_every_step(Doing(stage.registry, "keygen", str(private)), undo, holds, thorough=stage.thorough)
    generate(private, public)
    return said


def _refused(private: Path, public: Path) -> bool:
    before = private.read_bytes()
    try:
        generate(private, public)
    except KeyFileError as error:
        return private.read_bytes() == before and (public.exists() or "make the pair again" in str(error))
    return False


def _readable(registry: Registry) -> None:
    """Whatever is listed is whole, CURRENT names something, and history can be read."""
    for snapshot_id in registry.ids():
        check(_intact(registry, snapshot_id), f"{snapshot_id} is half")
    current = registry.current()
    check(current is None or current in registry.ids(), f"CURRENT names {current}")
    check(current is None or len(registry.history()) > 0, "the history is lost")


def _intact(registry: Registry, snapshot_id: str) -> bool:
    try:
        return verify(registry.root / snapshot_id).id == snapshot_id
    except SnapshotError:
        return False


def _back(stage: Stage) -> None:
    stage.registry.activate(stage.former, "back", who="tests")


def _wanted(stage: Stage, snapshot_id: str) -> None:
    """One of both is wanted, and searches are answered."""
    current = stage.registry.current()
    check(current in (stage.former, snapshot_id), f"CURRENT names {current}")
    check(stage.info()["serving"] in (stage.former, snapshot_id), "neither serves")
    stage.searches.wait_for_more(1)
    check(not stage.searches.failures, f"searches failed: {stage.searches.failures[:3]}")


def _killed_swap(stage: Stage, step: str) -> str:
    """A service of its own, killed as its swap comes to a step and started again over what that left."""
    registry, former, other = _two(stage.folder)
    marks = {former: FORMER, other: OTHER}
    with serving(stage.folder, registry.root, *_FLAGS.get(step, ()), program=("-m", _STALLED, "kill", step)) as live:
        until(live, live.ready, "ready")
        registry.activate(other, "to be killed meanwhile", who="tests")
        if not _died(live, other):
            return f"a swap does not come to {step!r} with these settings"
        check(live.process.returncode == _KILLED, f"it ended with {live.process.returncode}")
    with serving(stage.folder, registry.root) as again:
        until(again, again.ready, "ready")
        with Searches(again.port, marks) as searches:
            searches.wait_for_more(5)
        check(not searches.failures, f"after a kill while {step}: {searches.failures[:3]}")
        until(again, lambda: again.get("/info")[1]["serving"] == other, f"{other} serving")
    _readable(registry)
    return (
        f"killed while {step}; started again, {' and '.join(sorted(marks[name].strip() for name in searches.snapshots))} served"
    )


def _died(live: Live, other: str) -> bool:
    """Wait for the end of the process, or for the end of a swap that never came to the step."""

    def settled() -> bool:
        try:
            return bool(live.get("/info")[1]["serving"] == other) and REACHED not in live.log.read_text()
        except OSError:
            return False

    try:
        until(live, settled, "swapped or killed", PATIENCE_SECONDS)
    except RuntimeError:
        check(not live.is_running(), "it neither died nor swapped")
        return True
    try:
        live.process.wait(2.0)  # the step may come after the swap
    except psutil.TimeoutExpired:
        return False
    return True


def _ended_swap(stage: Stage, step: str) -> str:
    """SIGTERM as the swap comes to a step: the process ends with 0, no traceback, and the next one serves what is wanted."""
    registry, former, other = _two(stage.folder)
    with serving(stage.folder, registry.root, *_FLAGS.get(step, ()), program=("-m", _STALLED, "term", step)) as live:
        until(live, live.ready, "ready")
        registry.activate(other, "to be ended meanwhile", who="tests")
        if not _died(live, other):
            live.stop()
            return f"a swap does not come to {step!r} with these settings"
        check(live.process.returncode == 0, f"it ended with {live.process.returncode}: {live.log.read_text()[-500:]}")
        check(any(line["event"] == "stopped" for line in live.log_lines()), "the log does not say that it stopped")
        check("Traceback" not in live.log.read_text(), f"a traceback: {live.log.read_text()[-800:]}")
    with serving(stage.folder, registry.root) as again:
        until(again, lambda: _ready_with(again, other), f"{other} serving")
        with Searches(again.port, {former: FORMER, other: OTHER}) as searches:
            searches.wait_for_more(5)
        check(not searches.failures, f"after SIGTERM while {step}: {searches.failures[:3]}")
    return f"ended with 0 while {step}; started again, the other served"


def _ready_with(live: Live, snapshot_id: str) -> bool:
    return live.ready() and live.get("/info")[1]["serving"] == snapshot_id


def _two(folder: Path) -> tuple[Registry, str, str]:
    """A registry of both, in which the former is wanted."""
    registry = Registry(folder / "two")
    former, other = make(registry.root, FORMER).root.name, make(registry.root, OTHER).root.name
    registry.activate(former, "for a fault", who="tests")
    return registry, former, other
