"""Several services at once, each by its own address: who serves what, and telling each what to try.

Plain HTTP by the standard library: whoever has a registry has nothing else installed.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from pydantic import AwareDatetime, BaseModel, TypeAdapter, ValidationError

from snapshot.errors import FleetError, ReplicaError

_TIMEOUT_SECONDS = 15.0
"""A service that takes so long to say how it is, is in no state to change."""
_MOST_AT_A_TIME = 32
_MOST_BYTES = 4 << 20
_MOST_DETAIL = 500


class _Failure(BaseModel):
    code: str
    reason: str


class _Remote(BaseModel):
    state: str
    reason: str | None


class _Manifest(BaseModel):
    created_at: AwareDatetime


class _Trial(BaseModel):
    snapshot: str


class _Info(BaseModel):
    """What of ``GET /info`` is read here; later versions may say more."""

    version: str
    desired: str | None
    serving: str | None
    state: str
    last_error: _Failure | None
    remote: _Remote | None
    snapshot: _Manifest | None
    in_flight: int
    trial: _Trial | None = None


_INFO = TypeAdapter(_Info)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a service says of itself.

    Attributes:
        desired: the id that it wants to serve: the registry's, or what it tries.
        created_at: when the snapshot that it serves was made.
        tries: the id that it tries ahead of the registry, if it does.
        error: why what it wants does not serve, with ``error_code``.
        remote: what it does about the registry elsewhere that it follows; None where it follows none.
        remote_error: why that fails.
    """

    version: str
    desired: str | None
    serving: str | None
    state: str
    in_flight: int
    created_at: datetime | None
    tries: str | None
    error_code: str | None
    error: str | None
    remote: str | None
    remote_error: str | None


@dataclass(frozen=True, slots=True)
class Replica:
    """The service at an address such as ``http://10.0.0.7:8000``."""

    url: str

    def look(self) -> Seen:
        """ReplicaError where it does not say."""
        try:
            info = _INFO.validate_json(self._call("/info"))
        except ValidationError as error:
            raise ReplicaError(f"{self.url}: /info is not that of this service; check the address and its version") from error
        failure, remote = info.last_error, info.remote
        return Seen(
            info.version,
            info.desired,
            info.serving,
            info.state,
            info.in_flight,
            None if info.snapshot is None else info.snapshot.created_at,
            None if info.trial is None else info.trial.snapshot,
            None if failure is None else failure.code,
            None if failure is None else failure.reason,
            None if remote is None else remote.state,
            None if remote is None else remote.reason,
        )

    def tell(self, path: str, body: Mapping[str, object], token: str) -> None:
        """POST to an operators' route; ReplicaError where it is not accepted."""
        self._call(path, json.dumps(body).encode(), {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})

    def _call(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
        request = urllib.request.Request(f"{self.url}{path}", body, dict(headers or {}))  # noqa: S310 - http or https, see replicas
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310 - as above
                content: bytes = response.read(_MOST_BYTES)
            return content
        except urllib.error.HTTPError as error:
            with error:
                raise ReplicaError(f"{self.url}{path}: {error.code} {_detail(error.read(_MOST_BYTES))}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise ReplicaError(f"{self.url}: out of reach ({reason}); is it running, and is this its address?") from error


def replicas(urls: Sequence[str]) -> list[Replica]:
    """The services at addresses; a name that stands for several, as that of a headless Service does, is all of them.

    Raises:
        FleetError: one is no address, or is named twice.
        ReplicaError: a name cannot be resolved.
    """
    found = [Replica(one) for url in urls for one in _addresses(url)]
    if twice := sorted({one.url for one in found if found.count(one) > 1}):
        raise FleetError(f"{twice[0]} is named twice; name each service once")
    return found


def look_at(fleet: Sequence[Replica]) -> list[Seen | ReplicaError]:
    """What each says, or why it does not; all are asked at once."""
    with ThreadPoolExecutor(min(len(fleet), _MOST_AT_A_TIME) or 1, "replica") as pool:
        return list(pool.map(_try_look, fleet))


def agree(seen: Sequence[Seen | ReplicaError]) -> bool:
    """Whether every one answers, serves what it wants, and all serve the same."""
    served = {one.serving if isinstance(one, Seen) and one.serving == one.desired else None for one in seen}
    return len(served) == 1 and None not in served


def _try_look(replica: Replica) -> Seen | ReplicaError:
    try:
        return replica.look()
    except ReplicaError as error:
        return error


def _addresses(url: str) -> Iterator[str]:
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/") or parts.query:
        raise FleetError(f"{url}: no address of a service; write it as http://HOST:8000")
    numbers = _resolved(url, host, port or 80) if parts.scheme == "http" else []  # a certificate is for the name
    if len(numbers) < 2:
        yield f"{parts.scheme}://{parts.netloc}"
        return
    yield from (f"http://{number}:{port or 80}" for number in numbers)


def _resolved(url: str, host: str, port: int) -> list[str]:
    """IPv4 addresses of a name in their order; none where it is an address itself."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        try:
            found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            raise ReplicaError(f"{url}: {host} cannot be resolved ({error.strerror}); check the name") from error
        return sorted({str(address[0]) for *_, address in found}, key=ipaddress.ip_address)
    return []


def _detail(body: bytes) -> str:
    """Of a problem, or what came instead of one."""
    try:
        problem = json.loads(body)
        return f"{problem['code']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return body[:_MOST_DETAIL].decode(errors="replace").strip() or "without a reason"
