"""``python -m tests.faults.dying STEP ACTION REGISTRY ARGUMENT``: a change of a registry, killed before its STEP-th step.

A step is whatever the interpreter is about to do to a file: open one for writing, link, rename, remove, lock, make a folder
(https://docs.python.org/3/library/audit_events.html), or make it durable. With step 0 it is not killed, and its last line is
the number of steps.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from snapshot.registry import Registry

_CHANGES = {"os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "fcntl.flock", "os.chmod"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _publish(registry: Registry, folder: str) -> None:
    registry.publish(Path(folder), who="tests")


def _activate(registry: Registry, snapshot_id: str) -> None:
    registry.activate(snapshot_id, "a fault", who="tests")


def _rollback(registry: Registry, why: str) -> None:
    registry.rollback(why, who="tests")


def _pull(registry: Registry, url: str) -> None:
    from snapshot.remote import pull  # with obstore, which the others do without

    pull(url, registry)


def _sign(registry: Registry, snapshot_id: str) -> None:
    registry.sign(snapshot_id, registry.root.parent / "key")


def _keygen(_: Registry, private: str) -> None:
    from snapshot.keys import generate  # as above, with cryptography

    generate(Path(private), Path(f"{private}.pub"))


ACTIONS: dict[str, Callable[[Registry, str], None]] = {
    "publish": _publish,
    "activate": _activate,
    "rollback": _rollback,
    "pull": _pull,
    "sign": _sign,
    "keygen": _keygen,
}


def die_before(step: int) -> Callable[[], int]:
    """Kill this process before its ``step``-th change of a file; gives what tells how many there were so far."""
    steps, fsync = 0, os.fsync

    def count() -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if event in _CHANGES or (event == "open" and _is_writing(arguments)):
            count()

    def count_and_fsync(descriptor: int) -> None:
        count()
        fsync(descriptor)

    sys.addaudithook(hear)
    os.fsync = count_and_fsync  # type: ignore[assignment]  # the one step that is not audited
    return lambda: steps


def _is_writing(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & _WRITES)


def main() -> None:
    step, action, registry, argument = sys.argv[1:]
    steps = die_before(int(step))
    ACTIONS[action](Registry(Path(registry)), argument)
    print(steps())


if __name__ == "__main__":
    main()
