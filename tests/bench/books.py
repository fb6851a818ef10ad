"""What surrounds a request without the work: ids, clock, counters, log line, spans. Run by ``tests.bench.tracing``.

``python tests/bench/books.py TREE REGISTRY [FLAG VALUE]...`` prints, for each line that it reads, what a request takes of the
processor, in microseconds, with what threads do for it. It runs the service of TREE, which may be from before there was a tracer.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

_REQUESTS = 2000
_STAGES = ("tokenize", "encode", "search", "fetch", "render", "reply")
_TIMINGS = dict.fromkeys(("queue", *_STAGES), 0.1)
_HEADERS = [
    (b"host", b"bench"),
    (b"user-agent", b"bench/1"),
    (b"content-type", b"application/json"),
    (b"content-length", b"40"),
]


def main(tree: str, registry: str, *flags: str) -> None:
    sys.path[0] = tree  # before anything of ours is imported
    from service.logs import configure
    from service.main import compose
    from service.settings import load_settings

    names = [flag.removeprefix("--").replace("-", "_") for flag in flags[::2]]
    settings = load_settings({"registry": registry, **dict(zip(names, flags[1::2], strict=True))})
    with ExitStack() as undo, Path("/dev/null").open("w") as nowhere:
        _log_to(nowhere, settings, configure)
        parts = compose(settings, undo)
        gc.freeze()
        for _ in sys.stdin:
            print(_measured(parts), flush=True)


def _log_to(nowhere: Any, settings: Any, configure: Any) -> None:
    """By a thread of its own, where the tree has one."""
    try:
        from service.log_writer import LogWriter
    except ImportError:
        configure(settings.log_level, "json", nowhere)
    else:
        writer = LogWriter(nowhere)
        configure(settings.log_level, "json", nowhere, time.monotonic, writer)
        writer.start()


def _measured(parts: Any) -> float:
    """Microseconds."""
    from service.api.call import open_call
    from service.api.envelope import Ledger
    from service.deadline import Deadline
    from service.walk import Walk

    ledger = Ledger(parts) if hasattr(Ledger, "open") else Ledger(parts, random.random)
    began = time.process_time_ns()
    for _ in range(_REQUESTS):
        scope = {"type": "http", "method": "POST", "path": "/search", "headers": _HEADERS}
        call = ledger.open(scope, works=True) if hasattr(Ledger, "open") else open_call(scope, parts.clock)
        call.walk = Walk(Deadline.after(1000.0, call.started, call.clock), call.caller)
        for stage in _STAGES:
            call.walk.pass_to(stage)
        call.timings_ms = _TIMINGS
        call.headers()
        seconds = (ledger.seconds(call),) if hasattr(Ledger, "seconds") else ()
        ledger.account("/search", scope, call, 200, *seconds)
    _wait(parts)
    return (time.process_time_ns() - began) / 1000 / _REQUESTS


def _wait(parts: Any) -> None:
    """Until lines and spans that wait are written and sent: they are of these requests."""
    tracer = getattr(parts, "tracer", None)
    while tracer is not None and tracer._waiting:
        tracer._wake.set()
        time.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
