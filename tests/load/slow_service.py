"""The service itself, started with ``python -m tests.load.slow_service``, whose stages take as long as they are told.

A toy snapshot is searched in less than a millisecond: too fast for overload or for a stage that blocks. Each search sleeps
``--slow-ms`` on its worker thread, and a query that has the word ``blocked`` in it ``--block-ms`` when it is tokenized.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from service import __main__ as command_line
from service.generation import Generation
from service.loader import Loader

BLOCKED = "blocked"


class _Slow:
    """An engine or encoder that takes its time."""

    def __init__(self, inner: Any, slow_ms: float, block_ms: float) -> None:
        self._inner = inner
        self._slow_ms = slow_ms
        self._block_ms = block_ms

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def tokenize(self, rendered: Sequence[str]) -> Any:
        if any(BLOCKED in text for text in rendered):
            time.sleep(self._block_ms / 1000)
        return self._inner.tokenize(rendered)

    def search(self, *arguments: Any) -> Any:
        time.sleep(self._slow_ms / 1000)
        return self._inner.search(*arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slow-ms", type=float, default=0.0)
    parser.add_argument("--block-ms", type=float, default=0.0)
    ours, rest = parser.parse_known_args()
    open_fast = Loader.open

    def open_slow(self: Loader, *arguments: Any) -> Generation:
        generation = open_fast(self, *arguments)
        encoder, engine = (_Slow(part, ours.slow_ms, ours.block_ms) for part in (generation.encoder, generation.engine))
        return replace(generation, encoder=encoder, engine=engine)  # type: ignore[arg-type]  # they pass everything on

    Loader.open = open_slow  # type: ignore[method-assign]
    sys.argv[1:] = rest
    command_line.main()


if __name__ == "__main__":
    main()
