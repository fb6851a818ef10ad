"""Who hears how far a transfer has come."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told by the thread that transfers; must not block."""

    def begin(self, what: str, total_bytes: int) -> None:
        """So many bytes are about to travel."""

    def advance(self, count: int) -> None:
        """So many more have."""


class NullProgress:
    """Hears and does nothing."""

    def begin(self, what: str, total_bytes: int) -> None: ...

    def advance(self, count: int) -> None: ...
