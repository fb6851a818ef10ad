"""What the access log and tracing cost a request: ``python -m tests.bench.tracing [--before COMMIT]``.

The service's own code around a request (``books.py``) under settings that differ in nothing else, one after the other in every
round, by processor time: a whole request on a busy machine varies by more than all of this.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.live import ENVIRONMENT, ROOT

_WARM = 3
_ROOM = ("--otel-bsp-max-queue-size", "100000")
"""For all spans of a measurement: none is dropped, so that all are paid for."""
SUBJECTS: dict[str, tuple[str, ...]] = {
    "both off": ("--access-log", "false"),
    "access log as it is by default": (),
    "access log of every request": ("--access-log-sample", "1"),
    "tracing, 1% of requests": (
        *("--access-log", "false", "--tracing", "true"),
        *("--otel-traces-sampler", "traceidratio", "--otel-traces-sampler-arg", "0.01"),
    ),
    "tracing, every request": ("--access-log", "false", "--tracing", "true"),
}

Measure = Callable[[], float]
"""Microseconds of processor time for a request."""


@dataclass(frozen=True)
class Subject:
    """A service to be measured: the code of ``tree`` with ``flags``."""

    name: str
    tree: Path
    flags: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", metavar="COMMIT", help="the service of this commit too, as it was without access log")
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    with ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        subjects = [Subject(name, ROOT, (*_ROOM, *flags)) for name, flags in SUBJECTS.items()]
        if given.before is not None:
            tree = undo.enter_context(_tree_of(given.before, folder / "before"))
            subjects.insert(0, Subject(f"before ({given.before})", tree, ()))
        registry = _toy(folder / "registry")
        environment = ENVIRONMENT | {"OTEL_EXPORTER_OTLP_ENDPOINT": undo.enter_context(_receiving())}
        books = {each.name: undo.enter_context(_books(each, registry, environment)) for each in subjects}
        _compare("What surrounds a request", books, given.rounds)


def _toy(folder: Path) -> Path:
    sys.path.append(str(ROOT / "tests"))
    from serving import make_registry  # the tests' helpers import each other by their bare names

    make_registry(folder)
    return folder


@contextmanager
def _tree_of(commit: str, folder: Path) -> Iterator[Path]:
    subprocess.run(["git", "worktree", "add", "--detach", "--quiet", folder, commit], cwd=ROOT, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", folder], cwd=ROOT, check=True)


@contextmanager
def _receiving() -> Iterator[str]:
    """The URL of a collector that throws away what it gets."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def _books(subject: Subject, registry: Path, environment: dict[str, str]) -> Iterator[Measure]:
    command = [sys.executable, ROOT / "tests/bench/books.py", subject.tree, registry, *subject.flags]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=subject.tree, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        to, back = process.stdin, process.stdout

        def measure() -> float:
            to.write("once more\n")
            to.flush()
            return float(back.readline())

        yield measure
        to.close()


def _compare(what: str, subjects: dict[str, Measure], rounds: int) -> None:
    for measure in subjects.values():
        for _ in range(_WARM):
            measure()
    found = [{name: measure() for name, measure in subjects.items()} for _ in range(rounds)]
    first = next(iter(subjects))
    print(f"| {what} | µs a request, median [quartiles] | more than {first}, paired by round |\n|---|---|---|")
    for name in subjects:
        own = [each[name] for each in found]
        more = [each[name] - each[first] for each in found]
        print(f"| {name} | {_spread(own, '.1f')} | {_spread(more, '+.1f')} |")
    print(f"\n{rounds} rounds\n", flush=True)


def _spread(values: Sequence[float], form: str) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


if __name__ == "__main__":
    main()
