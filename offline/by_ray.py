"""A runner that has tasks done by the workers of a Ray cluster (extra ``ray``)."""

from __future__ import annotations

import logging
import math
import os
import platform
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from offline.errors import BackboneError, OfflineError, WorkerError
from offline.progress import say, track
from offline.ray_config import RayConfig

Task = TypeVar("Task")
Result = TypeVar("Result")
_LISTENS_SECONDS = 5.0


class RayRunner:
    """Calls the function in other processes, on this machine or on many. A task whose worker dies is begun again elsewhere.

    Results are the same bytes as those of ``LocalRunner`` where the machines are of one kind.

    Raises:
        OfflineError: Ray is not installed.
    """

    def __init__(self, config: RayConfig) -> None:
        self._config = config
        if config.address is not None:
            _use_token(os.environ, Path.home())
        self._ray = _import_ray()

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """Yield results in the order in which they are there, with one bar for all of them.

        Raises:
            WorkerError: no worker can do it, or as many died of one task as may.
            OfflineError: what the function raises.
        """
        ray = self._ray
        total = len(tasks) if isinstance(tasks, Sized) else None
        with _session(ray, self._config):
            yield from track(self._results(ray, function, tasks), "on Ray's workers, shards", total)

    def _results(self, ray: Any, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        config = self._config
        options = {"num_cpus": config.cpus, "num_gpus": config.gpus, "max_retries": config.retries, "retry_exceptions": False}
        call, under_way = ray.remote(**options)(_on_worker), {}
        for task in tasks:
            under_way[call.remote(function, task)] = task
            while len(under_way) >= config.workers:  # Ray starts all that fit, so no more are handed over
                yield self._next(ray, under_way)
        while under_way:
            yield self._next(ray, under_way)

    def _next(self, ray: Any, under_way: dict[Any, Task]) -> tuple[Task, Any]:
        (done, *_), _ = ray.wait(list(under_way), num_returns=1)
        task = under_way.pop(done)
        with _told(ray, self._config):
            return task, ray.get(done)


def _on_worker(function: Callable[[Task], Result], task: Task) -> Result:
    """What goes wrong there says where."""
    try:
        return function(task)
    except BackboneError as error:
        raise BackboneError(
            f"worker {platform.node()}: {error}; the work folder must lie under the same path on every node, as on a shared file "
            "system"
        ) from None
    except ModuleNotFoundError as error:
        raise WorkerError(
            f"worker {platform.node()}: {error.name} is not installed; every node needs pip install '.[offline,ray]'"
        ) from None


def _use_token(environment: MutableMapping[str, str], home: Path) -> None:
    """Have Ray tell a cluster its token, where this user has one and says nothing else; before Ray is imported, which reads it.

    A cluster that is started where there is a token wants it (since Ray 2.59), and drivers look for it by themselves only where
    the address is ``auto``. One that wants none takes no notice.
    """
    named = any(environment.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if named or (home / ".ray" / "auth_token").is_file():
        environment.setdefault("RAY_AUTH_MODE", "token")


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
    except ModuleNotFoundError as error:
        raise OfflineError(
            f"--runner ray: Ray is not installed ({error.name}): pip install '.[offline,ray]', or leave out --runner ray"
        ) from error
    return ray


@contextmanager
def _session(ray: Any, config: RayConfig) -> Iterator[None]:
    """A connection to the cluster, or a cluster of this machine; one that is there already, as in tests, is used and stays."""
    if ray.is_initialized():
        yield
        return
    cores = config.workers * math.ceil(config.cpus)
    nice = {"worker_niceness": 0}  # 15 unless told: on a machine that does anything else, workers wait for minutes
    own: dict[str, Any] = {"num_cpus": cores, "include_dashboard": False, "_node_ip_address": "127.0.0.1", "_system_config": nice}
    where = own if config.address is None else {"address": config.address}
    say(f"  Ray: {'a cluster of this machine' if config.address is None else config.address}, {config.workers} shards at a time")
    if config.address is not None:
        _check_listens(config.address)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unanswered(config.address, error) from error
    try:
        _check_room(ray, config)
        yield
    finally:
        ray.shutdown()


def _check_listens(address: str) -> None:
    """WorkerError where nobody listens at HOST:PORT, which Ray finds out after minutes; other forms are for Ray to read."""
    try:
        host, port = (parts := urlsplit(address if "://" in address else f"//{address}")).hostname, parts.port
    except ValueError as error:
        raise _unanswered(address, error) from error
    if host is None or port is None:
        return
    try:
        socket.create_connection((host, port), _LISTENS_SECONDS).close()
    except (OSError, UnicodeError) as error:  # a name that cannot even be looked up, as one with an empty label
        raise _unanswered(address, error) from error


def _unanswered(address: str | None, error: Exception) -> WorkerError:
    if address is None:
        return WorkerError(
            f"Ray cannot start a cluster of this machine ({_line(error)}); it wants to write into {Path.home()} and "
            f"{tempfile.gettempdir()} (HOME, TMPDIR)"
        )
    return WorkerError(
        f"ray.address: {address}: no cluster answers ({_line(error)}); start one with: ray start --head, or leave ray.address "
        "out; one that wants a token wants the same one in ~/.ray/auth_token here"
    )


def _check_room(ray: Any, config: RayConfig) -> None:
    """WorkerError where no node has what a shard takes, for which Ray would wait for ever; a cluster may get another node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("CPU", 0.0) >= config.cpus and node.get("GPU", 0.0) >= config.gpus for node in nodes):
        return
    there = "; ".join(f"{node.get('CPU', 0.0):g} cores, {node.get('GPU', 0.0):g} GPUs" for node in nodes)
    takes = f"{config.cpus:g} cores (ray.cpus) and {config.gpus:g} GPUs (ray.gpus)"
    what = f"no node has what a shard takes, {takes}; there: {there}"
    if config.address is None:
        raise WorkerError(f"{what}; ask for less")
    say(f"warning: {what}; nothing is encoded until one is there")


@contextmanager
def _told(ray: Any, config: RayConfig) -> Iterator[None]:
    """Ray's errors in our words; the function's own as they were raised."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, OfflineError):
            raise cause from None
        raise WorkerError(
            f"a worker failed: {_line(cause)}; every node needs this software with the extras offline and ray, of one version"
        ) from error
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        raise WorkerError(
            f"{config.retries + 1} workers died of one shard ({_line(error)}); give them more memory or set encode.batch_size "
            "lower, then run the same command again: finished shards stay"
        ) from error
    except ray.exceptions.RayError as error:
        raise WorkerError(f"the cluster is gone ({_line(error)}); run the same command again: finished shards stay") from error


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[-1][:300]}" if text else type(error).__name__
