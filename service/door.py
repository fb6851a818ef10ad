"""What a connection asks an application about a request before anything is done for it."""

from __future__ import annotations

from typing import Any, Protocol


class Door(Protocol):
    """Asked on the event loop, with the ASGI scope of a request whose headers are there."""

    def turns_away(self, scope: Any) -> bool:
        """Refuse it, at once and whole (``service.scopes.REPLY``), if there is no point in its body; say whether it was."""

    def begins_at_once(self, scope: Any) -> bool:
        """Whether the application may be run outside a task until it first waits (``service.eager``)."""


class OpenDoor:
    """Lets everybody in, each with a task."""

    def turns_away(self, scope: Any) -> bool:  # noqa: ARG002 - Door's signature
        return False

    def begins_at_once(self, scope: Any) -> bool:  # noqa: ARG002 - as above
        return False
