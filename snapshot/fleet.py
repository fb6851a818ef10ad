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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Protocol, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, AwareDatetime, BaseModel, TypeAdapter, ValidationError

from snapshot.errors import FleetError, ReplicaError, ReplicaRefusedError
from snapshot.printable import printable

_TIMEOUT_SECONDS = 15.0
"""A service that takes so long to say how it is, is in no state to change."""
_MOST_AT_A_TIME = 32
_ASKED = "closed"
_MORE_LOOKS = 3
"""At each address, by connections of their own: a balancer hands one of them to another service, unless it goes by who asks."""
_MOST_BYTES = 4 << 20
_MOST_DETAIL = 500
_REFUSALS = range(400, 500)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Past any proxy of the environment: it would read the operator's token, and knows no replicas."""


Asked = TypeVar("Asked")
Told = TypeVar("Told")
_Text = Annotated[str, AfterValidator(printable)]


class _Failure(BaseModel):
    code: _Text
    reason: _Text


class _Remote(BaseModel):
    state: _Text
    reason: _Text | None


class _Engine(BaseModel):
    state: _Text
    code: _Text | None
    reason: _Text | None


class _Manifest(BaseModel):
    created_at: AwareDatetime


class _Trial(BaseModel):
    snapshot: _Text


class _Info(BaseModel):
    """What of ``GET /info`` is read here; later versions may say more, earlier ones less."""

    version: _Text
    desired: _Text | None
    serving: _Text | None
    state: _Text
    last_error: _Failure | None
    remote: _Remote | None
    snapshot: _Manifest | None
    in_flight: int
    trial: _Trial | None = None
    instance: _Text | None = None
    engine: _Engine | None = None


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
        instance: of the process, another one after each start; None where its version does not say.
        engine_error: why no search is answered, where the server that keeps the vectors is not asked.
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
    instance: str | None = None
    engine_error: str | None = None


class Member(Protocol):
    """One of the services; see ``Replica``."""

    @property
    def url(self) -> str: ...

    def look(self) -> Seen: ...

    def tell(self, path: str, body: Mapping[str, object], token: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Replica:
    """The service at an address such as ``http://10.0.0.7:8000``.

    Attributes:
        unresolved: why its name stands for no address. It is not tried again: it might stand for several by then.
    """

    url: str
    unresolved: str | None = None

    def look(self) -> Seen:
        """ReplicaError where it does not say."""
        try:
            info = _INFO.validate_json(self._call("/info"))
        except ValidationError as error:
            raise ReplicaError(f"{self.url}: /info is not that of this service; check the address and its version") from error
        failure, remote, engine = info.last_error, info.remote, info.engine
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
            info.instance,
            None if engine is None or engine.state == _ASKED else f"{engine.code}: {engine.reason}",
        )

    def tell(self, path: str, body: Mapping[str, object], token: str) -> None:
        """POST to an operators' route.

        Raises:
            ReplicaRefusedError: it is not accepted.
            ReplicaError: no answer came, or one that does not say whether it was accepted.
        """
        self._call(path, json.dumps(body).encode(), {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})

    def _call(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
        if self.unresolved is not None:
            raise ReplicaError(f"{self.url}: {self.unresolved}")
        request = urllib.request.Request(f"{self.url}{path}", body, dict(headers or {}))  # noqa: S310 - http or https, see replicas
        try:
            with _DIRECT.open(request, timeout=_TIMEOUT_SECONDS) as response:
                content: bytes = response.read(_MOST_BYTES)
            return content
        except urllib.error.HTTPError as error:
            kind = ReplicaRefusedError if error.code in _REFUSALS else ReplicaError
            raise kind(f"{self.url}{path}: {error.code} {_problem(error)}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = printable(str(getattr(error, "reason", None) or error).strip()[:_MOST_DETAIL])
            raise ReplicaError(f"{self.url}: out of reach ({reason}); is it running, and is this its address?") from error


def replicas(urls: Sequence[str]) -> list[Replica]:
    """The services at addresses; a name that stands for several, as that of a headless Service does, is all of them.

    Raises:
        FleetError: one is no address, or is named twice.
    """
    found = [one for url in urls for one in _at(url)]
    if twice := sorted({one.url for one in found if found.count(one) > 1}):
        raise FleetError(f"{twice[0]} is named twice; name each service once")
    return found


def check_distinct(fleet: Sequence[Member], seen: Sequence[Seen | ReplicaError]) -> None:
    """FleetError where an address is not one process, or two are of one: some would count twice, and others not at all.

    Each that has said which process it is, is asked again, as a balancer that was named in place of services gives itself away.
    """
    said = {one.url: (one, first.instance) for one, first in zip(fleet, seen, strict=True) if isinstance(first, Seen)}
    named = [(one, instance) for one, instance in said.values() if instance is not None]
    for (one, _), several in zip(named, _at_once(_other_instance, named), strict=True):
        if several:
            raise FleetError(
                f"{one.url} answers as several services: a balancer's, or one that was restarted just now; name each service by "
                "its own address"
            )
    known: dict[str, str] = {}
    for one, instance in named:
        if instance in known:
            raise FleetError(f"{known[instance]} and {one.url} are one service; name each once, by its own address")
        known[instance] = one.url


def _other_instance(asked: tuple[Member, str]) -> bool:
    """Whether another process than this one answers there, too."""
    member, instance = asked
    try:
        return any(member.look().instance != instance for _ in range(_MORE_LOOKS))
    except ReplicaError:
        return False


def look_at(fleet: Sequence[Replica]) -> list[Seen | ReplicaError]:
    """What each says, or why it does not; all are asked at once."""
    return _at_once(_try_look, fleet)


def _at_once(ask: Callable[[Asked], Told], asked: Sequence[Asked]) -> list[Told]:
    with ThreadPoolExecutor(min(len(asked), _MOST_AT_A_TIME) or 1, "replica") as pool:
        return list(pool.map(ask, asked))


def agree(seen: Sequence[Seen | ReplicaError]) -> bool:
    """Whether every one answers, serves what it wants, and all serve the same."""
    served = {one.serving if isinstance(one, Seen) and one.serving == one.desired else None for one in seen}
    return len(served) == 1 and None not in served


def _try_look(replica: Replica) -> Seen | ReplicaError:
    try:
        return replica.look()
    except ReplicaError as error:
        return error


def _at(url: str) -> Iterator[Replica]:
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as it is looked up: no empty label, none above 63 characters
    except ValueError:
        host, port = None, None
    if parts.username is not None:
        raise FleetError(f"{parts.hostname}: a service's address holds no user and no password; write it as http://HOST:8000")
    if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/") or parts.query:
        raise FleetError(f"{url}: no address of a service; write it as http://HOST:8000")
    own = f"{parts.scheme}://{parts.netloc}"
    try:
        numbers = _resolved(host, port or 80) if parts.scheme == "http" else []  # a certificate is for the name
    except OSError as error:
        yield Replica(own, f"{host} cannot be resolved ({error.strerror}); check the name")
        return
    yield from [Replica(f"http://{number}:{port or 80}") for number in numbers] if len(numbers) > 1 else [Replica(own)]


def _resolved(host: str, port: int) -> list[str]:
    """Addresses of a name in order, of IPv4 if it has such, else of IPv6 in brackets; none where it is an address itself."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        found = socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)
        texts = {str(address[0]) for *_, address in found}
        one_family = {text for text in texts if ":" not in text} or texts
        return [f"[{text}]" if ":" in text else text for text in sorted(one_family, key=ipaddress.ip_address)]
    return []


def _problem(answer: urllib.error.HTTPError) -> str:
    """What it says, or what came instead of a problem."""
    with answer:
        try:
            body = answer.read(_MOST_BYTES)
        except (OSError, http.client.HTTPException):
            return "without a reason"
    try:
        problem = json.loads(body)
        return printable(f"{problem['code']}: {problem['detail']}")
    except (ValueError, KeyError, TypeError):
        return printable(body[:_MOST_DETAIL].decode(errors="replace").strip()) or "without a reason"
