"""Goal: documents encoded by Ray's workers, one of which is killed in mid-run, are byte for byte those of the local runner.

``python -m tests.scale.ray`` runs in a network namespace of its own where there may be one: Ray's workers also listen
elsewhere than on loopback. Towers are random, documents are made up; encoding is the stage's own code.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from offline.by_ray import RayRunner
from offline.progress import say
from offline.ray_config import RayConfig
from offline.runners import LocalRunner
from tests.bench.goals import Verdict
from tests.workers import Recorded, kill_when_it_waits

_ROWS, _SHARD_ROWS, _VICTIM = 2_000, 100, 7
_ALONE = ["unshare", "--net", "bash", "-c", 'ip link set lo up && exec "$@"', "alone"]


def main(argv: list[str]) -> int:
    """Print the goals; 1 where one is short, 0 and a line where Ray is not installed."""
    parser = argparse.ArgumentParser(prog="python -m tests.scale.ray", description=__doc__)
    parser.add_argument("--rows", type=_rows, default=_ROWS, help="documents, in shards of 100; two shards at least")
    parser.add_argument("--light", type=Path, metavar="DIR", help="only the runner, without towers; what it did stays in DIR")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if find_spec("ray") is None:
        print("left out: Ray is not installed; pip install '.[offline,ray]'")
        return 0
    if given.light is not None:
        return _light(given.light)
    if not given.inside:
        command = [sys.executable, "-m", "tests.scale.ray", "--inside", "--rows", str(given.rows)]
        return subprocess.run([*alone(), *command], check=False).returncode
    with tempfile.TemporaryDirectory(prefix="scale-ray-") as folder:
        return _measure(Path(folder), given.rows)


def alone() -> list[str]:
    """What to put before a command so that it has a network of its own; nothing where this user may not."""
    tried = subprocess.run([*_ALONE, "true"], check=False, capture_output=True)
    return _ALONE if tried.returncode == 0 else []


def _measure(folder: Path, rows: int) -> int:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tiny_work import make_prepared, make_towers  # with torch; as the tests find it

    inputs = {"prepare": make_prepared(folder / "prepare", rows), "train": make_towers(folder / "train")}
    began = time.monotonic()
    local = _encode(inputs, folder / "local", LocalRunner())
    took = time.monotonic() - began
    (folder / "calls").mkdir()
    recorded: list[Recorded] = []

    class Watched:
        """Ray's runner, whose function tells what it does."""

        def run(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
            recorded.append(Recorded(function, number_of, folder / "calls", victim_of(rows)))
            return RayRunner(RayConfig(workers=2)).run(recorded[0], tasks)

    killer = kill_when_it_waits(folder / "calls")
    began = time.monotonic()
    by_ray = _encode(inputs, folder / "ray", Watched())
    killer.join()
    calls = recorded[0].calls()
    shards = -(-rows // _SHARD_ROWS)
    say(f"local {took:.1f} s, Ray {time.monotonic() - began:.1f} s; {shards} shards, processes: {len(recorded[0].workers())}")
    same = sum(by_ray[name] == content for name, content in local.items()) / len(local) if local.keys() == by_ray.keys() else 0.0
    return _tell("ray_bytes_equal_to_local", same, "ray_shards_repeated_after_kill", len(calls) - shards)


def _rows(text: str) -> int:
    rows = int(text)
    if rows <= _SHARD_ROWS:
        raise argparse.ArgumentTypeError(f"{rows} are one shard; ask for more than {_SHARD_ROWS}, so that a worker goes on")
    return rows


def victim_of(rows: int) -> int:
    """The shard whose worker is killed: one that there is, since the killer waits for it."""
    return min(_VICTIM, -(-rows // _SHARD_ROWS) - 1)


def _light(folder: Path) -> int:
    tasks, recorded = range(12), Recorded(drawn, int, folder, victim=3)
    killer = kill_when_it_waits(folder)
    found = dict(RayRunner(RayConfig(workers=2)).run(recorded, tasks))
    killer.join()
    same = sum(found[task].tobytes() == vectors.tobytes() for task, vectors in LocalRunner().run(drawn, tasks)) / len(tasks)
    return _tell("ray_results_equal_to_local", same, "ray_tasks_repeated_after_kill", len(recorded.calls()) - len(tasks))


def drawn(task: int) -> np.ndarray:
    """Vectors that follow from the task."""
    return np.random.default_rng(task).standard_normal((500, 8)).astype(np.float32)


def _tell(equal: str, same: float, repeated: str, times: int) -> int:
    """A kill that repeated nothing was none."""
    verdicts = [_verdict(equal, same, ">=1", same >= 1), _verdict(repeated, times, "<=1", times == 1)]
    for verdict in verdicts:
        print(verdict.line(), flush=True)
    return 0 if all(verdict.is_met for verdict in verdicts) else 1


def number_of(task: Any) -> int:
    """Of a shard."""
    return int(task.part.number)


def _encode(inputs: dict[str, Path], folder: Path, runner: Any) -> dict[str, bytes]:
    """What the stage leaves, vectors and receipts, by name."""
    from offline.config import EncodeConfig
    from offline.encode import run
    from offline.recipe import Recipe
    from offline.stages import Job, Source

    folder.mkdir()
    run(Job(Recipe(name="scale", encode=EncodeConfig(shard_rows=_SHARD_ROWS)), Source(), folder, inputs), runner)
    left = {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    shutil.rmtree(folder)
    return left


def _verdict(name: str, figure: float, bound: str, is_met: bool) -> Verdict:
    return Verdict(name, "", figure, bound, is_met, figure, figure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
