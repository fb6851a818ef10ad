"""Coroutines that begin at once, and only become a task if they have to wait.

A request that is refused, malformed or wrong then costs no task and no turn of the event loop, and every other one a turn
less. From Python 3.12 on asyncio has ``Task(eager_start=True)`` for this; uvloop's ``create_task`` does not pass it on.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any


def begin(coroutine: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None] | None:
    """Run ``coroutine`` to where it first waits; the rest of it, for a task, or None where it has ended.

    Until then there is no current task: ``asyncio.timeout`` and the like must not be used. What it raises is raised.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return None
    return _rest(coroutine, awaited)


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """Pass on what it waits for, and what comes of that: a result, or a cancellation."""
    try:
        while True:
            try:
                sent = yield awaited
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as thrown:  # noqa: BLE001 - the coroutine raises it, or knows what to do
                awaited = coroutine.throw(thrown)
            else:
                awaited = coroutine.send(sent)
    except StopIteration:
        return
