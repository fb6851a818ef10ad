"""Operators' tokens: whether there are any, and whether somebody could guess one from the file's digest."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from service.doctor.findings import Finding
from service.errors import TokensError
from service.settings import variable
from service.tokens import Token, read_tokens

_GUESSES = ("", "admin", "changeme", "demo", "letmein", "operator", "password", "root", "secret", "test", "token", "123456")
"""With each token's own name. Those made by ``python -m service token`` are 256 random bits."""
_EXPECTED = "a file of tokens made by: python -m service token NAME"


def check_tokens(path: Path | None) -> Finding:
    """Read the file as the service would, and try what people choose who make a digest by hand."""
    if path is None:
        advice = f"nobody can activate or roll back over HTTP: python -m service token NAME --file FILE, and set {_variable()}"
        return Finding("tokens", "warn", "operators' routes are off", _EXPECTED, advice)
    try:
        tokens = read_tokens(path)
    except TokensError as error:
        advice = f"the service does not start, or lets nobody in: python -m service token NAME --file {path}"
        return Finding("tokens", "wrong", str(error), _EXPECTED, advice)
    return _judge(tokens)


def _judge(tokens: Sequence[Token]) -> Finding:
    weak = sorted({token.name for token in tokens if _is_guessed(token)})
    names = ", ".join(sorted({token.name for token in tokens})) or "nobody"
    if weak:
        advice = f"anybody can be {', '.join(weak)}: delete these lines, and make new ones by python -m service token NAME"
        return Finding("tokens", "wrong", f"{len(tokens)} tokens; guessed at once: {', '.join(weak)}", _EXPECTED, advice)
    advice = (
        f"the file is empty, so operators' routes are off: add a line by python -m service token NAME, or unset {_variable()}"
    )
    return Finding.of("tokens", "ok" if tokens else "warn", f"{len(tokens)} tokens: {names}", _EXPECTED, advice)


def _is_guessed(token: Token) -> bool:
    return any(sha256(guess.encode()).digest() == token.digest for guess in (*_GUESSES, token.name, token.name.lower()))


def _variable() -> str:
    return variable("admin_tokens_file")
