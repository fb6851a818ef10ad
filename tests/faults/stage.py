"""Where a fault is tried: a registry, the service over it for real, and somebody who searches meanwhile."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapshot.files import write_text
from snapshot.layout import Layout
from snapshot.registry import Registry
from tests.faults.searches import Searches
from tests.live import ENVIRONMENT, ROOT, SERVICE, Live, start, until

PATIENCE_SECONDS = 120.0
FLAGS = ("--follow-interval-seconds", "0.2")
_COMMAND_SECONDS = 120.0


class BrokenError(AssertionError):
    """What must hold under a fault did not."""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    said: str

    def refused(self, what: str) -> str:
        """Its error, one line, of a command that must have failed; BrokenError where it did not, or not by name."""
        last = self.said.strip().splitlines()[-1:] or [""]
        check(self.code > 0, f"{what} was not refused (exit code {self.code}): {self.said[-300:]}")
        check("Traceback" not in self.said, f"{what} ended with a traceback: {self.said[-300:]}")
        return last[0]

    def done(self, what: str) -> str:
        """What it said, where it must have succeeded."""
        check(self.code == 0, f"{what} failed ({self.code}): {self.said[-500:]}")
        return self.said


def check(holds: bool, otherwise: str) -> None:
    """BrokenError unless it holds."""
    if not holds:
        raise BrokenError(otherwise)


def command(*arguments: str, program: Sequence[str] = ("-m", "snapshot"), environment: Mapping[str, str] | None = None) -> Ended:
    """Run ``python PROGRAM ARGUMENTS`` to its end."""
    ended = subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout)


@dataclass
class Stage:
    """A registry and the service over it.

    Attributes:
        folder: for whatever a fault needs, anew for each.
        former: what serves before the fault, and must go on.
        other: intact, sealed, not in the registry.
        searches: what has become of them since the fault began.
        thorough: whether commands are tried as well as the service, and every step rather than a few.
    """

    folder: Path
    registry: Registry
    live: Live
    former: str
    other: Layout
    searches: Searches
    thorough: bool = True

    def want(self, snapshot_id: str) -> None:
        """Declare it as an operator's tool of another version might: CURRENT alone, unchecked; the service looks at once."""
        write_text(self.registry.root / "CURRENT", f"{snapshot_id}\n")
        self.poke()

    def poke(self) -> None:
        os.kill(self.live.process.pid, signal.SIGHUP)

    def info(self) -> dict[str, Any]:
        status, body = self.live.get("/info")
        check(status == 200, f"/info answered {status}")
        return dict(body)

    def refused(self, snapshot_id: str, code: str, *verify: str) -> str:
        """Want what must be refused by ``code`` (a pattern): in /info and the log, and the former serves. What was said.

        ``python -m snapshot verify --deep`` must refuse it too, with the further arguments ``verify``.
        """
        self.want(snapshot_id)
        failure = self._until(lambda: self._failure(snapshot_id), f"{snapshot_id} refused")
        check(bool(re.fullmatch(code, failure["code"])), f"refused as {failure['code']}, not {code}: {failure['reason']}")
        self._until(lambda: self._is_logged(snapshot_id, failure["code"]), f"{failure['code']} in the log")
        self.serves(self.former)
        ready, said = self.live.get("/readyz")
        check(ready == 200, f"/readyz answered {ready}: {said}")
        if self.thorough:
            self.command("verify", snapshot_id, "--deep", "--against", self.former, *verify).refused("verify --deep")
        return f"{failure['code']}: {failure['reason'].replace(str(self.registry.root), '')}"

    def serves(self, snapshot_id: str) -> None:
        """It is what serves, and searches are answered by it."""
        serving = self.info()["serving"]
        check(serving == snapshot_id, f"{serving} serves, not {snapshot_id}")
        self.searches.wait_for_more()
        check(not self.searches.failures, f"searches failed: {self.searches.failures[:3]}")

    def becomes(self, snapshot_id: str) -> None:
        """Wait until it serves."""
        self._until(lambda: self.info()["serving"] == snapshot_id, f"{snapshot_id} serving")
        self.serves(snapshot_id)

    def bring(self) -> Layout:
        """The other snapshot in the registry, to be spoilt."""
        return copied_into(self.registry, self.other)

    def command(self, *arguments: str) -> Ended:
        """``python -m snapshot`` with this registry."""
        return command(*arguments, "--registry", str(self.registry.root))

    def _is_logged(self, snapshot_id: str, code: str) -> bool:
        return any(line.get("snapshot") == snapshot_id and line.get("code") == code for line in self.live.log_lines())

    def _failure(self, snapshot_id: str) -> dict[str, Any] | None:
        info = self.info()
        check(info["serving"] != snapshot_id, f"{snapshot_id} serves")
        failure = info["last_error"]
        return failure if failure and failure["snapshot"] == snapshot_id else None

    def _until(self, condition: Any, what: str) -> Any:
        try:
            return until(self.live, condition, what, PATIENCE_SECONDS)
        except (RuntimeError, OSError) as error:
            raise BrokenError(str(error)) from error


def copied_into(registry: Registry, source: Layout) -> Layout:
    """A sealed snapshot with files of its own."""
    target = registry.root / source.root.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source.root, target)
    return Layout(target)


@contextmanager
def serving(
    folder: Path,
    registry: Path,
    *flags: str,
    program: Sequence[str] = SERVICE,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Live]:
    """The service over a registry until the block ends, ready or not; killed where it does not end by itself."""
    live = start(folder, registry, *FLAGS, *flags, program=program, environment=environment)
    try:
        yield live
    finally:
        if live.is_running():
            live.process.kill()
            live.process.wait()
