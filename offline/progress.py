"""Progress of long work: a bar in a terminal, a line every few seconds in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LINE_SECONDS = 10.0
T = TypeVar("T")


def console() -> Console:
    """Where progress and results are printed: standard error, so that standard output stays clean. Of several processes
    that compute together the first one speaks.
    """
    return Console(file=sys.stderr, highlight=False, soft_wrap=True, quiet=os.environ.get("RANK", "0") != "0")


def say(message: str) -> None:
    """Print one line."""
    console().print(message, markup=False)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` while showing how far the work is."""
    size = total if total is not None else (len(items) if isinstance(items, Sized) else None)
    out = console()
    if out.is_terminal:
        columns = (TextColumn(f"  {what}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=out, transient=True) as bar:
            yield from bar.track(items, total=size)
        return
    yield from lines(items, what, size)


def lines(items: Iterable[T], what: str, size: int | None) -> Iterator[T]:
    """Yield ``items`` and say now and then how far the work is: within other work, which may have a bar."""
    started = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= _LINE_SECONDS:
            last = now
            of = f"/{size}" if size is not None else ""
            say(f"  {what}: {done}{of} after {now - started:.0f} s")
        yield item
