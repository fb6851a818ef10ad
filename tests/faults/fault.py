"""What a fault is, and how one is tried."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from snapshot.errors import SnapshotError
from snapshot.files import write_text
from snapshot.registry import Registry
from tests.bench.goals import Verdict
from tests.faults.searches import Searches
from tests.faults.stage import BrokenError, Stage, check, serving
from tests.faults.toys import FORMER, OTHER, make
from tests.live import Live, until

_BROKEN = (BrokenError, SnapshotError, RuntimeError, OSError, subprocess.SubprocessError)
"""What ends a fault as short; anything else is a mistake of these tests."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        end: ``refused`` what must not serve is refused by name; ``survived`` it is overcome.
        run: does it and checks what must hold; what was said, for people. BrokenError where it does not hold.
        quick: whether it is also tried by ``pytest``.
    """

    name: str
    end: Literal["refused", "survived"]
    run: Callable[[Stage], str]
    quick: bool = False


class SkippedError(Exception):
    """The machine does not allow the fault to be made; says why."""


@dataclass(frozen=True)
class Tried:
    """What came of a fault; ``held`` is None where it could not be made here."""

    fault: Fault
    held: bool | None
    said: str

    def verdict(self) -> Verdict:
        """``GOAL fault_<name> 1 ==1 ok`` where everything held, 0 and short where something did not."""
        figure = float(self.held is True)
        return Verdict(f"fault_{self.fault.name}", self.said, figure, "==1", self.held is True, figure, figure)


class Stages:
    """The registry, the service and the two snapshots that faults share; the service is started again where one ended it."""

    def __init__(self, *, thorough: bool) -> None:
        self._thorough = thorough
        self._undo = ExitStack()
        self._running = ExitStack()
        self._live: Live | None = None

    def __enter__(self) -> Stages:
        self._folder = Path(self._undo.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        self._registry = Registry(self._folder / "registry")
        self._former = make(self._registry.root, FORMER)
        self._other = make(self._folder / "other", OTHER)
        self._registry.activate(self._former.root.name, "for tests/faults", who="tests")
        self._undo.callback(lambda: self._running.close())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._undo.close()

    def try_out(self, fault: Fault) -> Tried:
        """Put the stage in order, make the fault, and see that searches went on being answered all the while."""
        live = self._service()
        try:
            with tempfile.TemporaryDirectory(dir=self._folder) as folder, Searches(live.port, self._marks()) as searches:
                searches.wait_for_more()
                stage = Stage(Path(folder), self._registry, live, self._former.root.name, self._other, searches, self._thorough)
                said = fault.run(stage)
                searches.wait_for_more()
                check(live.is_running(), f"the process ended with {live.process.returncode}")
                check(not searches.failures, f"{len(searches.failures)} searches failed: {searches.failures[:3]}")
            return Tried(fault, held=True, said=said)
        except SkippedError as error:
            return Tried(fault, held=None, said=f"not tried: {error}")
        except _BROKEN as error:
            return Tried(fault, held=False, said=f"{type(error).__name__}: {error}")

    def _marks(self) -> dict[str, str]:
        return {self._former.root.name: FORMER, self._other.root.name: OTHER}

    def _service(self) -> Live:
        """The service, serving the former of two; alone in the registry."""
        former = self._former.root.name
        for name in self._registry.ids():
            if name != former:
                shutil.rmtree(self._registry.root / name)
        write_text(self._registry.root / "CURRENT", f"{former}\n")
        self._registry.activate(former, "the next fault", who="tests")
        if self._live is None or not self._live.is_running():
            self._running.close()
            self._live = self._running.enter_context(serving(self._folder, self._registry.root))
        live = self._live
        until(live, live.ready, "ready")
        until(live, lambda: _serves(live, former), f"{former} serving again")
        return live


def _serves(live: Live, snapshot_id: str) -> bool:
    info = live.get("/info")[1]
    return info["serving"] == info["desired"] == snapshot_id and info["last_error"] is None
