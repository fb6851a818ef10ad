"""An object store with a registry in it: one object a file, the same names as in a registry's folder.

obstore does the talking (S3, Google Cloud Storage, Azure, folders). Here its errors become ours, and what stores do
differently is found out by trying: some (rclone's S3) ignore conditions on writes, or answer ranges with status 200.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from snapshot.errors import (
    LibraryMissingError,
    RemoteAddressError,
    RemoteConflictError,
    RemoteDeniedError,
    RemoteError,
    RemoteUnavailableError,
)

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import ObjectStore

CURRENT = "CURRENT"
_VARIABLES = {"s3": "AWS", "s3a": "AWS", "gs": "GOOGLE", "az": "AZURE", "azure": "AZURE", "abfs": "AZURE", "abfss": "AZURE"}
"""By scheme, how the names of the variables begin from which obstore takes endpoint, region and credentials."""
_TORN = re.compile(rf"({'|'.join(_VARIABLES)}|file|https?):|[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
"""How a URL begins of which slashes are missing, and hardly ever the path of a folder."""
_CLIENT_KEYS = ("allow_http", "timeout", "connect_timeout", "read_timeout", "proxy_url", "proxy_ca_certificate", "proxy_excludes")
_MIB = 1 << 20
_ATTEMPTS = 4
_UNSENT = ("connection was not ready",)  # the other end was just closing it: the request was never on its way
_CUT = (*_UNSENT, "body")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How to talk to an object store.

    Attributes:
        connections: most requests at a time.
        chunk_bytes: what one request fetches or sends of a large file; so many for each connection are held in memory.
        stall_seconds: without a byte, until a request is given up and tried again.
        retry_seconds: since a request's first attempt, after which it is not tried again.
    """

    connections: int = 8
    chunk_bytes: int = 4 * _MIB
    stall_seconds: float = 20.0
    retry_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Stored:
    """An object's bytes and which version of it they are.

    Attributes:
        version: for a conditional write; never to be understood.
        modified_at: by the store's clock.
    """

    content: bytes
    version: dict[str, str]
    modified_at: datetime


def is_folder(url: str) -> bool:
    """Whether this names a folder of this machine and not an object store."""
    return "://" not in url or url.startswith("file://")


def folder_of(url: str) -> Path:
    """The folder that ``url`` names, a path or ``file:///...``; RemoteAddressError for a file URL with a host, a torn URL."""
    if "://" not in url:
        if _TORN.match(url):
            raise RemoteAddressError(
                f"{url}: neither a URL nor a folder; write s3://BUCKET/PREFIX, gs://…, az://… or file:///path; or ./{url}"
            )
        return Path(url)
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise RemoteAddressError(f"{url}: not a folder of this machine; write file:///path, or the path alone")
    return Path(unquote(parts.path))


def local_folder(text: str) -> Path:
    """The folder in which a command works on a registry; RemoteAddressError for the URL of an object store."""
    if not is_folder(text):
        raise RemoteAddressError(
            f"{text}: a folder of this machine is needed here; bring snapshots into one with: python -m snapshot pull {text} "
            "--registry DIR; a service follows that URL by --remote-registry; what services serve, says: python -m snapshot fleet"
        )
    return folder_of(text)


def check_url(url: str) -> None:
    """RemoteAddressError unless this can be the URL of a registry."""
    if "://" in url and ("?" in url or "#" in url):  # what stands there may be a secret, and nobody would heed it
        plain = re.split(r"[?#]", url, maxsplit=1)[0]
        raise RemoteAddressError(
            f"{plain}: a query or fragment is no part of a registry's URL; leave out what begins with ? or #"
        )
    _check_bucket(url)
    if is_folder(url):
        folder_of(url)
    elif "//" in url.partition("://")[2]:
        raise RemoteAddressError(f"{url}: a part of the prefix is empty; write one slash where there are two")
    elif urlsplit(url).scheme not in _VARIABLES or not urlsplit(url).netloc:
        raise RemoteAddressError(f"{url}: not a remote registry; write s3://BUCKET/PREFIX, gs://…, az://… or a folder")


def _check_bucket(url: str) -> None:
    """RemoteAddressError for credentials before it: nobody would heed them, and the URL is in ``/info``, logs and histories."""
    scheme, _, rest = url.partition("://")
    bucket = rest.partition("/")[0]
    if "@" in bucket and not scheme.startswith("abfs"):  # of Azure's that is CONTAINER@ACCOUNT
        raise RemoteAddressError(
            f"{scheme}://{bucket.rpartition('@')[2]}: credentials are no part of a registry's URL; leave out what ends with @, "
            "and set the variables of the store"
        )


def require() -> None:
    """LibraryMissingError unless what speaks to object stores is installed."""
    with _library():
        import obstore  # noqa: F401 - tried


def open_store(url: str, options: StoreOptions | None = None) -> Store:
    """The object store, bucket and prefix, or the folder, that ``url`` names. Nothing is sent yet.

    Raises:
        LibraryMissingError: obstore is not installed.
        RemoteAddressError: not a URL of a kind that is known, or not complete.
    """
    chosen = options or StoreOptions()
    with _library():
        from obstore.store import LocalStore, from_url
    check_url(url)
    scheme = urlsplit(url).scheme
    with _translated(url):
        if is_folder(url):
            return Store(url, LocalStore(folder_of(url)), chosen)
        client, retries = _client(scheme, chosen), _retries(chosen)
        # one signature for each scheme, which is not known here
        return Store(url, from_url(url, client_options=client, retry_config=retries), chosen)  # type: ignore[call-overload]


def _client(scheme: str, options: StoreOptions) -> dict[str, Any]:
    """Options given to obstore replace all those that it read from the environment, so these are put back here."""
    stall = timedelta(seconds=options.stall_seconds)
    chosen = {"connect_timeout": timedelta(seconds=min(5.0, options.stall_seconds)), "read_timeout": stall, "timeout": "10m"}
    variables = {key: os.environ.get(f"{_VARIABLES[scheme]}_{key.upper()}") for key in _CLIENT_KEYS}
    return {**chosen, **{key: value for key, value in variables.items() if value is not None}}


def _retries(options: StoreOptions) -> dict[str, Any]:
    backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2}
    return {"max_retries": 10, "retry_timeout": timedelta(seconds=options.retry_seconds), "backoff": backoff}


@dataclass(slots=True)
class Store:
    """Objects by key, a path with forward slashes. Every method raises RemoteError; FileNotFoundError only where it says so.

    Attributes:
        where: the URL, for messages.
    """

    where: str
    _objects: ObjectStore
    options: StoreOptions
    _ranges: bool | None = field(default=None, init=False)

    def read(self, key: str, limit_bytes: int) -> Stored | None:
        """A small object, or None; RemoteUnavailableError where it is larger than ``limit_bytes``."""
        try:
            return self._try(key, lambda: self._stored(key, limit_bytes))
        except FileNotFoundError:
            return None

    def _stored(self, key: str, limit_bytes: int) -> Stored:
        found = self._objects.get(key)
        meta = found.meta
        if meta["size"] > limit_bytes:
            raise RemoteUnavailableError(f"{self.of(key)}: {meta['size']} bytes, at most {limit_bytes} expected; remove it")
        version = {name: text for name in ("e_tag", "version") if (text := meta.get(name))}
        return Stored(bytes(found.bytes()), {str(name): str(text) for name, text in version.items()}, meta["last_modified"])

    def whole(self, key: str) -> bytes:
        """All of an object in one request; FileNotFoundError where there is none."""
        return self._try(key, lambda: bytes(self._objects.get(key).bytes()))

    def part(self, key: str, start: int, length: int) -> bytes:
        """A range of an object; FileNotFoundError where there is none."""
        return self._try(key, lambda: bytes(self._objects.get_range(key, start=start, length=length)))

    def stream(self, key: str) -> Iterator[bytes]:
        """An object from its beginning, in pieces; FileNotFoundError where there is none."""
        with self._at(key):
            for piece in self._objects.get(key).stream(min_chunk_size=self.options.chunk_bytes):
                yield bytes(piece)

    def has_ranges(self, key: str) -> bool:
        """Whether ranges are answered as they should be; tried once, on an object of two bytes at least."""
        if self._ranges is None:
            try:
                self._ranges = len(self.part(key, 1, 1)) == 1
            except RemoteUnavailableError as error:
                if "non-partial" not in str(error):
                    raise
                self._ranges = False
        return self._ranges

    def sizes(self, prefix: str) -> dict[str, int]:
        """Sizes of the objects below ``prefix``, by their keys."""
        return {key: size for key, (size, _) in self._listed(prefix).items()}

    def records(self, prefix: str, limit_bytes: int) -> dict[str, datetime]:
        """When the objects below ``prefix`` were written, by the store's clock; without those above ``limit_bytes``."""
        return {key: at for key, (size, at) in self._listed(prefix).items() if size <= limit_bytes}

    def folders(self) -> list[str]:
        """First parts of all keys that have more than one."""
        return self._try("", lambda: sorted(self._objects.list_with_delimiter()["common_prefixes"]))

    def write(self, key: str, content: bytes, mode: PutMode = "overwrite") -> None:
        """Write a small object at once; RemoteConflictError where the condition in ``mode`` does not hold."""
        self._try(key, lambda: self._objects.put(key, content, mode=mode, use_multipart=False), _UNSENT)

    def send(self, key: str, pieces: Iterator[bytes]) -> None:
        """Write a large object from pieces of ``chunk_bytes``; nobody sees it before it is complete."""
        limits = {"chunk_size": max(5 * _MIB, self.options.chunk_bytes), "max_concurrency": self.options.connections}
        with self._at(key):
            self._objects.put(key, pieces, **limits)  # type: ignore[arg-type]  # integers

    def copy(self, source: str, key: str) -> None:
        """Copy an object inside the store; FileNotFoundError where there is none."""
        self._try(key, lambda: self._objects.copy(source, key), _UNSENT)

    def of(self, key: str) -> str:
        """The whole address of an object, for messages."""
        return f"{self.where.rstrip('/')}/{key}" if key else self.where

    def _listed(self, prefix: str) -> dict[str, tuple[int, datetime]]:
        objects = self._try(prefix, lambda: [found for batch in self._objects.list(prefix=prefix) for found in batch])
        return {found["path"]: (found["size"], found["last_modified"]) for found in objects}

    def _try(self, key: str, request: Callable[[], T], signs: tuple[str, ...] = _CUT) -> T:
        """What was refused or not answered obstore itself tries again, but not errors that have one of these signs."""
        for _ in range(_ATTEMPTS):
            try:
                with self._at(key):
                    return request()
            except RemoteUnavailableError as error:
                if not any(sign in str(error.__cause__) for sign in signs):
                    raise
        with self._at(key):
            return request()

    @contextmanager
    def _at(self, key: str) -> Iterator[None]:
        with _translated(self.of(key)):
            yield


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """Obstore's errors as ours. A missing object stays a FileNotFoundError: what that means, only the caller knows."""
    with _library():
        from obstore import exceptions
    try:
        yield
    except FileNotFoundError as error:
        _refuse_bucket(where, error)
        raise
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
        raise RemoteConflictError(f"{where}: somebody else has written it meanwhile; look, and try again") from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise RemoteDeniedError(f"{where}: refused ({_first_line(error)}); check credentials and their rights") from error
    except (exceptions.BaseError, OSError, ValueError, NotImplementedError) as error:
        raise _unavailable(where, _first_line(error), error) from error


def _unavailable(where: str, reason: str, error: Exception) -> RemoteError:
    if "builder error" in reason:
        return RemoteAddressError(f"{where}: plain http is refused; use https, or set AWS_ALLOW_HTTP=true")
    if "NoSuchBucket" in str(error):
        return _no_bucket(where)
    if any(text in reason for text in ("must be specified", "Unable to", "not found", "Missing")):
        return RemoteAddressError(f"{where}: not usable ({reason}); check the URL, and the variables of the store")
    return RemoteUnavailableError(f"{where}: no answer that can be used ({reason}); check endpoint and network, then try again")


def _refuse_bucket(where: str, error: FileNotFoundError) -> None:
    """A bucket that is missing is told like an object that is: RemoteAddressError then."""
    if "NoSuchBucket" in str(error):
        raise _no_bucket(where) from error


def _no_bucket(where: str) -> RemoteAddressError:
    return RemoteAddressError(f"{where}: there is no such bucket; create it, or check the URL and the endpoint")


def _first_line(error: Exception) -> str:
    """Without the library's debugging output, nor the query of a URL, which may carry a signature."""
    return re.sub(r"\?\S+", "?…", str(error).strip().split("\n", 1)[0])[:400]


@contextmanager
def _library() -> Iterator[None]:
    """Around the import of obstore: most registries are folders, and what it needs is an extra."""
    try:
        yield
    except ImportError as error:
        raise LibraryMissingError("remote registries need obstore; install it: pip install 'scalingnote[remote]'") from error
