"""``python -m tests.faults.stalled_service DO AT ...``: the service, to which something happens as its second swap gets so far.

DO is ``kill`` (SIGKILL), ``term`` (SIGTERM, after which it goes on) or ``wait`` (until the file named by the variable
``FAULTS_GO_ON`` is there); AT is a state of ``service.swap.SwapState``, or ``closing`` the one before.
The rest are flags of the service.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from service import __main__ as command_line
from service.generation import Generation
from service.swap import Generations, SwapState

REACHED = "FAULTS: reached"
CLOSING = "closing"
_POLL_SECONDS = 0.01


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _term() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _wait() -> None:
    while not Path(os.environ["FAULTS_GO_ON"]).exists():
        time.sleep(_POLL_SECONDS)


_DOINGS: dict[str, Callable[[], None]] = {"kill": _kill, "term": _term, "wait": _wait}


class _Once:
    """Does it the first time that a swap, not the start, comes to a state."""

    def __init__(self, do: Callable[[], None], at: str) -> None:
        self._do = do
        self._at = at
        self._first: str | None = None
        self._is_done = False

    def entered(self, generations: Generations, state: SwapState) -> None:
        """Hear of a state."""
        self._first = self._first or generations.serving
        is_of_a_swap = self._first is not None and (state is not SwapState.SERVING or generations.serving != self._first)
        if is_of_a_swap and state.value == self._at:
            self._happen()

    def closing(self, generation: Generation) -> None:
        """Hear of a generation that is given up."""
        if generation.id == self._first and self._at == CLOSING:
            self._happen()

    def _happen(self) -> None:
        if not self._is_done:
            self._is_done = True
            print(REACHED, self._at, file=sys.stderr, flush=True)
            self._do()


def main() -> None:
    do, at, *flags = sys.argv[1:]
    once, enter, close = _Once(_DOINGS[do], at), Generations.enter, Generation.close

    def enter_and_tell(self: Generations, state: SwapState) -> None:
        enter(self, state)
        once.entered(self, state)

    def tell_and_close(self: Generation) -> None:
        once.closing(self)
        close(self)

    Generations.enter = enter_and_tell  # type: ignore[method-assign]
    Generation.close = tell_and_close  # type: ignore[method-assign]
    sys.argv[1:] = flags
    command_line.main()


if __name__ == "__main__":
    main()
