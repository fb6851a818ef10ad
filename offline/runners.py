"""Who calls a pure function over many tasks. What is computed does not depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Protocol, TypeVar

from offline.ray_config import RayConfig

RunnerName = Literal["local", "ray"]
Task = TypeVar("Task")
Result = TypeVar("Result")


class Runner(Protocol):
    """Calls a function once a task; tasks and results can be pickled, so they may travel to other processes."""

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result as soon as it is there, in any order. An error of the function ends the run."""


class LocalRunner:
    """In this process, one after the other; torch itself uses every core or the GPU."""

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        for task in tasks:
            yield task, function(task)


def make_runner(name: RunnerName, config: RayConfig) -> Runner:
    """The runner that the command line named.

    Raises:
        OfflineError: what it needs is not installed; says which extra.
    """
    if name == "ray":
        from offline.by_ray import RayRunner

        runner = RayRunner(config)
        if config.store is None:
            return runner
        from offline.by_store import StoreRunner

        return StoreRunner(runner, config.store)
    return LocalRunner()
