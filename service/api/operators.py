"""Who may use operators' routes, and the line that each of their calls leaves in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from starlette.requests import Request

from service.api.call import call_of
from service.errors import AdminDisabledError, ServiceError, TokensError, UnauthorizedError
from service.repeats import AUDIT
from service.settings import variable
from service.tokens import Tokens

_KEY = "scalingnote.operator"
_OK = "ok"
_VARIABLE = variable("admin_tokens_file")

_audit = structlog.get_logger(AUDIT)


def operator_of(request: Request) -> str:
    """Name of the token that a call came with."""
    name: str = request.scope[_KEY]
    return name


class Door:
    """Lets operators in by their bearer tokens."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    @asynccontextmanager
    async def audited(self, request: Request) -> AsyncIterator[None]:
        """Around a call: asks for its token before anything else of it is read, and logs what came of it.

        Raises:
            AdminDisabledError: no token is configured; such calls are not logged.
            UnauthorizedError: none is given, or a wrong one.
            TokensError: the file of tokens is wrong.
        """
        who, outcome = None, ServiceError.code
        try:
            request.scope[_KEY] = who = await self._who(request)
            yield
            outcome = _OK
        except ServiceError as error:
            outcome = error.code
            raise
        finally:
            if outcome != AdminDisabledError.code:
                _log(request, who, outcome)

    async def _who(self, request: Request) -> str:
        try:
            table = await asyncio.to_thread(self._tokens.table)
        except TokensError as error:
            _audit.error("admin_tokens_invalid", reason=str(error))
            raise TokensError("the file of operators' tokens is wrong; the service's log says how") from error
        if not table.names:
            raise AdminDisabledError(
                f"operators' routes are off: no token is configured. Set {_VARIABLE} to a file with a line from: "
                "python -m service token NAME; or use: python -m snapshot"
            )
        scheme, _, rest = request.headers.get("authorization", "").strip().partition(" ")
        given = rest.strip()  # as with API keys: spaces that were copied along are no part of it
        if scheme.lower() != "bearer" or not given:
            raise UnauthorizedError("send the header: Authorization: Bearer TOKEN")
        who = table.who(given)
        if who is None:
            raise UnauthorizedError("the token is none of those configured")
        return who


def _log(request: Request, who: str | None, outcome: str) -> None:
    write, call = _audit.info if outcome == _OK else _audit.warning, call_of(request)
    write(
        "admin_call",
        who=who,
        client=None if request.client is None else request.client.host,
        method=request.method,
        route=request.scope["route"].path,
        snapshot=request.path_params.get("snapshot_id"),
        outcome=outcome,
        request_id=call.request_id,
        trace_id=call.trace_id,
    )
