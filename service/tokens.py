"""Bearer tokens of operators: a file with a line for each, ``NAME:sha256:HEX``, read anew when it has changed.

The file holds no secret. One SHA-256 is enough, since tokens are 256 random bits made here: there is nothing to guess that a
salt or a slow hash (scrypt, Argon2) would protect, and a slow one would let strangers make the service compute.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from stat import S_IWOTH

import structlog

from service import changing
from service.errors import TokensError

MOST_TOKENS = 64
"""Of one file. A given token is compared with as many digests, whatever the file holds: the time tells nothing of it."""

_PREFIX = "sn_"
"""By which scanners for leaked secrets can know ours."""
_SECRET_BYTES = 32
_NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
_LINE = re.compile(rf"({_NAME}):sha256:([0-9a-fA-F]{{64}})")
_FORM = "NAME:sha256: and 64 hex digits, as printed by: python -m service token NAME"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Token:
    """Who may come, and how it is known.

    Attributes:
        name: of the operator or machine; goes into the registry's history and the log.
        digest: SHA-256 of the secret, 32 bytes.
    """

    name: str
    digest: bytes

    @property
    def line(self) -> str:
        """As the file has it."""
        return f"{self.name}:sha256:{self.digest.hex()}"


class TokenTable:
    """The tokens of one reading of the file, filled up with digests that nothing has."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self.names = tuple(token.name for token in tokens)
        unused = (secrets.token_bytes(sha256().digest_size) for _ in range(MOST_TOKENS - len(tokens)))
        self._digests = (*(token.digest for token in tokens), *unused)

    def who(self, secret: str) -> str | None:
        """The name of a token, or None. As long for a wrong one as for any of the right ones, however many there are."""
        given = _digest(secret)
        found = sum(place * hmac.compare_digest(digest, given) for place, digest in enumerate(self._digests, 1))
        return self.names[found - 1] if found else None


class Tokens:
    """The tokens of a file; an empty table without one. ``table`` reads from disk: never call it on an event loop."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._read: tuple[tuple[int, ...], TokenTable] = ((), TokenTable(()))

    def table(self) -> TokenTable:
        """As the file is now; parsed only if it is another one than before.

        Raises:
            TokensError: it cannot be read, or a line is wrong. What it said before does not hold: it may have been revoked.
        """
        if self._path is None:
            return self._read[1]
        known, table = self._read
        try:
            found = self._path.stat()
            seen = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if seen == known:
                return table
        except OSError as error:
            raise _unreadable(self._path, error) from error
        table = TokenTable(read_tokens(self._path))
        self._read = seen, table
        _log.info("admin_tokens_read", path=str(self._path), names=list(table.names))
        return table


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens of a file; raises what ``parse_tokens`` does, also where it cannot be read, or anybody may write it."""
    try:
        mode, text = changing.read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    if mode & S_IWOTH:
        raise TokensError(f"{path}: anybody may write it, and so let himself in; do: chmod o-w {path}")
    return parse_tokens(text, path)


def _unreadable(path: Path, error: Exception) -> TokensError:
    if isinstance(error, IsADirectoryError):
        return TokensError(f"{path}: a folder; name the file of tokens")
    return TokensError(f"{path}: cannot be read ({error}); make it with: python -m service token NAME")


def parse_tokens(text: str, where: Path) -> tuple[Token, ...]:
    """The tokens of a file; blank lines and those that begin with # are left out. A name may have several.

    Raises:
        TokensError: a line is wrong or a digest comes twice; the message names the line.
    """
    tokens: list[Token] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        matched = _LINE.fullmatch(line.strip())
        if matched is None:
            raise TokensError(f"{where}:{number}: not a token; a line is {_FORM}")
        token = Token(matched[1], bytes.fromhex(matched[2]))
        if any(token.digest == other.digest for other in tokens):
            raise TokensError(f"{where}:{number}: this token is in the file already; remove one of the lines")
        tokens.append(token)
    if len(tokens) > MOST_TOKENS:
        raise TokensError(f"{where}: {len(tokens)} tokens; at most {MOST_TOKENS}")
    return tuple(tokens)


def make_token(name: str) -> tuple[str, Token]:
    """A new secret, which is kept nowhere, and what the file is to hold of it.

    Raises:
        TokensError: the name would not fit into a line.
    """
    if not re.fullmatch(_NAME, name):
        raise TokensError(f"{name!r}: not a name; it is 1 to 64 of A-Z a-z 0-9 . _ @ -, beginning with a letter or digit")
    secret = _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    return secret, Token(name, _digest(secret))


def add_token(path: Path, token: Token) -> None:
    """Add a line to a file, which is made where there is none.

    Raises:
        TokensError: the file is wrong as it is, is full, or cannot be written; nothing is changed then.
    """
    try:
        with changing.alone(path):
            before = changing.read(path)[1] if path.exists() else ""
            text = f"{before}\n" if before and not before.endswith("\n") else before
            text += f"{token.line}\n"
            parse_tokens(text, path)
            changing.replace(path, text)
    except (OSError, UnicodeDecodeError) as error:
        raise TokensError(f"{path}: cannot be written ({error}); nothing was changed") from error


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogateescape")).digest()
