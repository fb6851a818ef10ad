"""Operators' tokens: none, good ones, guessed ones, broken files."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from service.doctor.tokens import check_tokens
from service.tokens import add_token, make_token


def test_without_a_file_operators_routes_are_off() -> None:
    assert check_tokens(None).verdict == "warn"


def test_tokens_that_were_made_here_are_well_and_named(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    add_token(file, make_token("alice")[1])
    found = check_tokens(file)
    assert (found.verdict, found.seen) == ("ok", "1 tokens: alice")


@pytest.mark.parametrize("secret", ["changeme", "bob"])
def test_what_anybody_guesses_is_wrong(tmp_path: Path, secret: str) -> None:
    file = tmp_path / "tokens"
    add_token(file, make_token("alice")[1])
    file.write_text(file.read_text() + f"bob:sha256:{sha256(secret.encode()).hexdigest()}\n")
    found = check_tokens(file)
    assert found.verdict == "wrong"
    assert "bob" in found.advice
    assert "alice" not in found.advice


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("# nobody\n")
    assert check_tokens(tmp_path / "tokens").verdict == "warn"


def test_a_file_that_is_missing_wrong_or_anybodys_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    assert "cannot be read" in check_tokens(file).seen
    file.write_text("alice:plain\n")
    assert f"{file}:1" in check_tokens(file).seen
    file.write_text("")
    file.chmod(0o666)
    assert "anybody may write it" in check_tokens(file).seen
