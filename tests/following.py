"""A follower on a clock of its own, whose snapshots open, are refused or fail as a test wants."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from service.attempts import FollowOptions
from service.follow import Follower
from service.gate import GateOptions, Record
from service.generation import Generation, Step
from service.golden import Proof
from service.inspection import Inspection
from service.memory import Freed
from service.swap import Generations, SwapState
from service.trial import Trials
from snapshot.errors import HashMismatchError
from snapshot.layout import Layout
from snapshot.registry import Desire, Registry

DEADLINE_SECONDS = 10.0
OPTIONS = FollowOptions(poll_seconds=60.0, backoff_seconds=1.0, backoff_max_seconds=8.0)


class Clock:
    """Moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Refusals:
    """A SwapObserver that remembers what was refused."""

    def __init__(self) -> None:
        self.heard: list[tuple[str | None, str]] = []

    def entered(self, state: SwapState) -> None: ...

    def replaced(self, new: Generation, old: str | None) -> None: ...

    def failed(self, snapshot: str | None, code: str) -> None:
        self.heard.append((snapshot, code))

    def closed(self, snapshot: str, freed: Freed) -> None: ...

    def returned(self, to: Generation, left: str) -> None: ...


class Opener:
    """Opens generations that do nothing; runs ``at[step]`` as it enters a step."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.at: dict[Step, Callable[[], None]] = {}

    def inspect(self, desire: Desire, pace: Callable[[], None]) -> Inspection:
        return Inspection(Record(desire.snapshot, desire.forced, desire.why, lambda: 0.0), GateOptions(), pace=pace)

    def open(self, layout: Layout, on_state: Callable[[Step], None], inspection: Inspection) -> Generation:
        name = layout.root.name
        self.opened.append(name)
        for step in ("verifying", "opening", "proving", "warming"):
            on_state(step)
            self.at.get(step, lambda: None)()
        manifest: Any = SimpleNamespace(id=name)
        part: Any = SimpleNamespace(close=lambda: self.closed.append(name))
        nothing: Any = SimpleNamespace(close=lambda: None)
        return Generation(
            manifest, part, nothing, SimpleNamespace(), Proof(1, 1, 0.0, 1.0), nothing, nothing, "tower", datetime.now(UTC), {}
        )


class Bench:
    """A follower on a registry of snapshots that exist by name, with everything about it at hand."""

    def __init__(self, root: Path) -> None:
        self.registry = Registry(root)
        self.clock, self.opener, self.refusals, self.generations = Clock(), Opener(), Refusals(), Generations()
        self.trials = Trials(self.clock)
        self.follower = Follower(
            self.registry, self.generations, self.opener, OPTIONS, self.refusals, self.clock, trials=self.trials
        )

    def want(self, name: str) -> None:
        """Make CURRENT say ``name``, and a snapshot of that name exist if it can be one."""
        if "/" not in name:
            folder = self.registry.root / name
            folder.mkdir(exist_ok=True)
            (folder / "manifest.json").touch()
        (self.registry.root / "CURRENT").write_text(f"{name}\n")

    def fail(self) -> None:
        raise HashMismatchError("index.faiss: not what was sealed")
