"""How late the event loop comes to what is due: the time in which it answers nobody, not even /livez."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_EVERY_SECONDS = 0.02


class LoopLag:
    """Asks the event loop to call back every 20 ms, and tells by how much it was late; it may miss shorter pauses."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        """``observe`` hears of each lag, in seconds, on the event loop."""
        self._observe = observe

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Go on for as long as the loop runs."""
        self._loop = loop
        self._ask()

    def _ask(self) -> None:
        self._due = self._loop.time() + _EVERY_SECONDS
        self._loop.call_at(self._due, self._called)

    def _called(self) -> None:
        self._observe(max(0.0, self._loop.time() - self._due))
        self._ask()
