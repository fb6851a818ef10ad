"""Asks a running service over HTTP, within a deadline: for operators' commands, which need no more than the standard library."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.deadline import Deadline
from service.errors import UnreachableError
from service.headers import SYNTHETIC
from snapshot.files import read_secret

_MAX_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 16
_LEAST_SECONDS = 0.001
_ANOTHER = "that is not this service: look at the URL"


def read_key(path: Path | None) -> str | None:
    """The API key in a file, which other users do not see as they would a flag; None without a file.

    Raises:
        UnreachableError: there is none that could be a header.
    """
    if path is None:
        return None
    try:
        return read_secret(path)
    except (OSError, ValueError) as error:
        raise UnreachableError(f"{path}: holds no API key ({error}); write one into it, alone on its line") from error


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered, whatever the status.

    Attributes:
        url: that was asked.
        headers: with lower-case names.
        seconds: from the question to the whole answer.
        answered_at: when the answer was whole, in seconds since 1970 by this machine's clock.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float
    answered_at: float

    def json(self) -> dict[str, Any]:
        """The body, a JSON object; UnreachableError where it is none."""
        try:
            found = json.loads(self.body)
        except ValueError as error:
            raise UnreachableError(f"{self.url}: HTTP {self.status} without JSON; {_ANOTHER}") from error
        if not isinstance(found, dict):
            raise UnreachableError(f"{self.url}: HTTP {self.status} with JSON that is no object; {_ANOTHER}")
        return found


class Asker:
    """Asks one service; its URL may end with a path under which a proxy has it."""

    def __init__(self, url: str, deadline: Deadline, key: str | None = None, now: Callable[[], float] = time.time) -> None:
        """Nothing is asked yet.

        Args:
            url: such as http://localhost:8000.
            deadline: of all questions together.
            key: sent with searches, for services that want one.
            now: seconds since 1970.

        Raises:
            UnreachableError: no URL of HTTP, or one with a password, which is not repeated.
        """
        if not url.startswith(("http://", "https://")):
            raise UnreachableError(f"{url!r} is not the URL of a service; it begins with http:// or https://")
        if "@" in url.split("/")[2]:  # what is asked is told in errors and reports
            raise UnreachableError("a service's URL holds no user and no password; write it as http://HOST:8000")
        self.url = url.rstrip("/")
        self._deadline = deadline
        self._now = now
        self._headers = {"Content-Type": "application/json", SYNTHETIC: "1"} | ({} if key is None else {"X-API-Key": key})
        # Not by a proxy of the environment: what is asked is one process, and what a proxy answers is not its word.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str) -> Reply:
        """UnreachableError where no whole answer comes in time; every status is an answer."""
        return self._ask(urllib.request.Request(f"{self.url}{path}"))  # noqa: S310 - http and https alone

    def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """As ``get``, with a JSON body; the service is told that no user asks."""
        data = json.dumps(body).encode()
        return self._ask(urllib.request.Request(f"{self.url}{path}", data, self._headers))  # noqa: S310 - as above

    def _ask(self, request: urllib.request.Request) -> Reply:
        left = self._deadline.remaining_ms() / 1000
        if left <= 0:
            raise UnreachableError(f"{request.full_url}: not asked, the time for all questions is over; allow more")
        began = time.monotonic()
        try:
            with self._opener.open(request, timeout=max(_LEAST_SECONDS, left)) as response:
                return self._reply(request.full_url, response, began)
        except urllib.error.HTTPError as error:
            with error:
                return self._reply(request.full_url, error, began)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a port that is no number
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise UnreachableError(f"{request.full_url}: no answer ({reason}); is it running there?") from error

    def _reply(self, url: str, response: Any, began: float) -> Reply:
        """UnreachableError where the body breaks off, drips beyond the deadline, or is too long."""
        parts, size = [], 0
        try:
            while part := response.read1(_CHUNK_BYTES):
                parts.append(part)
                size += len(part)
                if size > _MAX_BYTES:
                    raise UnreachableError(f"{url}: an answer of more than {_MAX_BYTES} bytes; {_ANOTHER}")
                if self._deadline.passed():
                    raise UnreachableError(f"{url}: the answer was not whole in time; allow more")
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{url}: the answer broke off ({error})") from error
        declared = response.headers.get("content-length", "")
        if declared.isdecimal() and size < int(declared):  # read1 does not tell
            raise UnreachableError(f"{url}: the answer broke off after {size} of {declared} bytes")
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(url, response.status, headers, b"".join(parts), time.monotonic() - began, self._now())
