"""One client's connection: uvicorn's protocol, and what uvicorn does not do about clients that are hostile or unlucky."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.walk import Caller

EXTENSION = "scalingnote.connection"
"""Where an ASGI scope has its connection's Caller: ``scope["extensions"][EXTENSION].gone`` says whether it was closed."""


class Connection(HttpToolsProtocol):
    """A connection of which every request's scope says, without a task that waits for it, whether it is still there.

    A client that closes only its sending half counts as gone: at a socket it looks the same as one that left.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._caller = Caller()
        self._extensions: Any = {EXTENSION: self._caller}  # uvicorn's type allows dictionaries only

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = self._extensions

    def eof_received(self) -> None:
        self._caller.gone = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._caller.gone = True
        super().connection_lost(exc)
