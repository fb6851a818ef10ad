"""The file of API keys: a JSON object a line, with the hash of a key and what the key allows.

    {"name": "shop", "sha256": "9f86…", "scopes": ["search"], "rate_per_second": 50, "burst": 100, "expires_at": null}

The file holds no secret. One SHA-256 is enough, since keys are 256 random bits made here (docs/adr/0041-api-keys.md).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from stat import S_IWOTH
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from service import changing
from service.errors import KeysFileError

Permission = Literal["search", "embed"]
PERMISSIONS: tuple[Permission, ...] = get_args(Permission)
MOST_KEYS = 1000
"""Of one file: each is a handful of series in /metrics."""
LONGEST_KEY_BYTES = 256
"""Of what a caller sends; nothing longer is a key, or worth hashing."""

_PREFIX = "snk_"
"""By which scanners for leaked secrets can know ours."""
_SECRET_BYTES = 32
_NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"


class KeyEntry(BaseModel):
    """A line of the file, but for its hash."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(pattern=f"^{_NAME}$")]
    scopes: Annotated[tuple[Permission, ...], Field(min_length=1)] = PERMISSIONS
    rate_per_second: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    burst: Annotated[int, Field(ge=1, le=10**6)] | None = None
    expires_at: AwareDatetime | None = None


class _Line(KeyEntry):
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Who may come, and what for.

    Attributes:
        name: of the caller; the label of its metrics.
        digest: SHA-256 of the key, 32 bytes.
        scopes: what it may do.
        rate_per_second: searches and texts, on average; None: any number.
        burst: of them at once; the rate, rounded up, where the file has none.
        expires_at: from when on it is none; None: never.
    """

    name: str
    digest: bytes
    scopes: tuple[Permission, ...] = PERMISSIONS
    rate_per_second: float | None = None
    burst: int = 1
    expires_at: datetime | None = None


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file. Reads from disk: never call it on an event loop.

    Raises:
        KeysFileError: it cannot be read, anybody may write it, or a line is wrong.
    """
    return parse_keys(_text(path), path)


def parse_keys(text: str, where: Path) -> tuple[ApiKey, ...]:
    """The keys of a file's text; blank lines and those that begin with # are left out.

    Raises:
        KeysFileError: a line is wrong, a name or a hash comes twice, or there are more than ``MOST_KEYS``; names line and field.
    """
    found: dict[str, ApiKey] = {}
    digests: set[bytes] = set()
    for number, line in _lines(text):
        key = _parse(line, f"{where}:{number}")
        if key.name in found:
            raise KeysFileError(f"{where}:{number}: name: {key.name!r} is in the file already; names are unique")
        if key.digest in digests:
            raise KeysFileError(f"{where}:{number}: sha256: this key is in the file already, under another name")
        found[key.name] = key
        digests.add(key.digest)
    if len(found) > MOST_KEYS:
        raise KeysFileError(f"{where}: {len(found)} keys; at most {MOST_KEYS}")
    return tuple(found.values())


def add_key(path: Path, entry: KeyEntry) -> str:
    """Make a key, and add its line to a file, which is made where there is none. The key is kept nowhere.

    Raises:
        KeysFileError: the name is taken, or the file is wrong as it is, is full, or cannot be written; nothing is changed then.
    """
    secret = _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    line = _Line(**entry.model_dump(), sha256=digest_of(secret.encode()).hex()).model_dump_json()
    with _changing(path) as before:
        text = f"{before}\n" if before and not before.endswith("\n") else before
        _replace(path, f"{text}{line}\n")
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Take the line of a name out of a file.

    Raises:
        KeysFileError: it is not there, or the file is wrong as it is or cannot be written; nothing is changed then.
    """
    with _changing(path) as before:
        known = {key.name for key in parse_keys(before, path)}
        if name not in known:
            raise KeysFileError(f"{path}: no key of the name {name!r}; there are: {', '.join(sorted(known)) or 'none'}")
        gone = {number for number, line in _lines(before) if _parse(line, str(path)).name == name}
        kept = [line for number, line in enumerate(before.splitlines(), 1) if number not in gone]
        _replace(path, "".join(f"{line}\n" for line in kept))


def digest_of(secret: bytes) -> bytes:
    """What is kept of a key."""
    return sha256(secret).digest()


def entry_of(
    name: str, scopes: Sequence[str], rate_per_second: float | None, burst: int | None, expires_at: datetime | None
) -> KeyEntry:
    """What a new key allows.

    Raises:
        KeysFileError: the name or one of the values would not fit into a line; names it.
    """
    values = {"name": name, "scopes": tuple(scopes), "rate_per_second": rate_per_second, "burst": burst, "expires_at": expires_at}
    try:
        return KeyEntry.model_validate(values)
    except ValidationError as error:
        raise KeysFileError(_explain(error)) from error


def _parse(line: str, where: str) -> ApiKey:
    try:
        entry = _Line.model_validate_json(line)
    except ValidationError as error:
        raise KeysFileError(f"{where}: {_explain(error)}; a line is made by: python -m service key new NAME") from error
    rate, burst = entry.rate_per_second, entry.burst
    if rate is None and burst is not None:
        raise KeysFileError(f"{where}: burst: means nothing without rate_per_second; give both")
    return ApiKey(entry.name, bytes.fromhex(entry.sha256), entry.scopes, rate, burst or math.ceil(rate or 1), entry.expires_at)


def _explain(error: ValidationError) -> str:
    """The first fault, without the value: it may be a key, given where its hash belongs."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, fault["loc"]))
    if place == "name":
        return "name: 1 to 64 of A-Z a-z 0-9 . _ @ -, beginning with a letter or digit"
    return f"{place}: {fault['msg']}" if place else f"not a JSON object of a key: {fault['msg']}"


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


def _text(path: Path) -> str:
    try:
        mode, text = changing.read(path)
    except IsADirectoryError as error:
        raise KeysFileError(f"{path}: a folder; name the file of keys") from error
    except (OSError, UnicodeDecodeError) as error:
        raise KeysFileError(f"{path}: cannot be read ({error}); make it with: python -m service key new NAME") from error
    if mode & S_IWOTH:
        raise KeysFileError(f"{path}: anybody may write it, and so let himself in; do: chmod o-w {path}")
    return text


@contextmanager
def _changing(path: Path) -> Iterator[str]:
    """The text of a file, which is right, while no other command changes it."""
    with ExitStack() as held:
        try:
            held.enter_context(changing.alone(path))
        except OSError as error:
            raise KeysFileError(f"{path}: cannot be written ({error}); nothing was changed") from error
        before = _text(path) if path.exists() else ""
        parse_keys(before, path)
        yield before


def _replace(path: Path, text: str) -> None:
    parse_keys(text, path)
    try:
        changing.replace(path, text)
    except OSError as error:
        raise KeysFileError(f"{path}: cannot be written ({error}); nothing was changed") from error
