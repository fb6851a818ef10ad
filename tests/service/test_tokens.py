"""Operators' tokens: what a file says, when it is read again, and that comparing tells nothing."""

from __future__ import annotations

import hmac
import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from serving import tokens_file

import service.tokens
from service.errors import TokensError
from service.tokens import MOST_TOKENS, Tokens, TokenTable, add_token, make_token, parse_tokens, read_tokens

WHERE = Path("tokens")
LINE = f"alice:sha256:{sha256(b'secret').hexdigest()}"


def test_each_token_is_known_by_its_own_name(tmp_path: Path) -> None:
    table = Tokens(tokens_file(tmp_path, alice="first", bot="second")).table()
    assert [table.who(given) for given in ("first", "second", "third", "", "first ", "\xe9\udcff")] == [
        "alice",
        "bot",
        *[None] * 4,
    ]


def test_without_a_file_there_is_no_token() -> None:
    assert Tokens(None).table().names == ()


def test_what_the_file_holds_lets_nobody_in(tmp_path: Path) -> None:
    table = Tokens(tokens_file(tmp_path, alice="secret")).table()
    digest = sha256(b"secret").hexdigest()
    assert [table.who(given) for given in (digest, LINE, f"sha256:{digest}")] == [None, None, None]


def test_blank_lines_and_comments_are_left_out_and_a_name_may_come_twice() -> None:
    old, new = make_token("alice")[1], make_token("alice")[1]
    assert parse_tokens(f"# of May\n\n  {old.line}  \r\n# of June\n{new.line}", WHERE) == (old, new)


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice:secret",
        LINE[:-1],
        f"{LINE}0",
        LINE.replace("sha256", "md5"),
        f"a b{LINE}",
        LINE.removeprefix("alice"),
        f"{LINE}:x",
    ],
)
def test_a_wrong_line_is_named_and_not_shown(line: str) -> None:
    with pytest.raises(TokensError) as caught:
        parse_tokens(f"# first\n{line}\n", WHERE)
    assert str(caught.value).startswith("tokens:2: not a token")
    assert "secret" not in str(caught.value)


def test_the_same_token_twice_is_refused() -> None:
    with pytest.raises(TokensError, match=r"tokens:2: this token is in the file already"):
        parse_tokens(f"{LINE}\n{LINE.replace('alice', 'bot')}\n", WHERE)


def test_more_tokens_than_are_compared_are_refused() -> None:
    lines = [make_token("a")[1].line for _ in range(MOST_TOKENS + 1)]
    assert len(parse_tokens("\n".join(lines[1:]), WHERE)) == MOST_TOKENS
    with pytest.raises(TokensError, match=f"{MOST_TOKENS + 1} tokens; at most {MOST_TOKENS}"):
        parse_tokens("\n".join(lines), WHERE)


@pytest.mark.parametrize("given", ["first", "last", "wrong", ""])
@pytest.mark.parametrize("count", [0, 2, MOST_TOKENS])
def test_every_comparison_is_made_whatever_is_given_and_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch, given: str, count: int
) -> None:
    made = [make_token("other")[1].line for _ in range(max(0, count - 2))]
    ends = [f"{name}:sha256:{sha256(name.encode()).hexdigest()}" for name in ("first", "last")][:count]
    table = TokenTable(parse_tokens("\n".join([*ends[:1], *made, *ends[1:]]), WHERE))
    compared: list[bool] = []
    compare = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        compared.append(compare(a, b))
        return compared[-1]

    monkeypatch.setattr(service.tokens.hmac, "compare_digest", counted)
    assert table.who(given) == (given if count and given in ("first", "last") else None)
    assert len(compared) == MOST_TOKENS


def test_a_changed_file_is_read_at_the_next_call_and_an_unchanged_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tokens_file(tmp_path, alice="old")
    tokens = Tokens(file)
    first = tokens.table()
    assert tokens.table() is first
    tokens_file(tmp_path, alice="old", bot="new")
    assert tokens.table().names == ("alice", "bot")
    tokens_file(tmp_path, bot="new")
    table = tokens.table()
    assert (table.who("old"), table.who("new")) == (None, "bot")


def test_a_file_that_is_renamed_into_place_is_noticed_even_with_the_same_size_and_time(tmp_path: Path) -> None:
    file = tokens_file(tmp_path, alice="old")
    tokens = Tokens(file)
    tokens.table()
    times = file.stat()
    (tmp_path / "new").mkdir()
    other = tokens_file(tmp_path / "new", alice="new")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.rename(file)
    assert tokens.table().who("new") == "alice"


@pytest.mark.parametrize(
    "spoil", [Path.unlink, lambda path: path.write_text("half a li"), lambda path: path.write_bytes(b"\xff")]
)
def test_a_file_that_becomes_wrong_lets_nobody_in_until_it_is_right(tmp_path: Path, spoil: object) -> None:
    file = tokens_file(tmp_path, alice="secret")
    tokens = Tokens(file)
    tokens.table()
    spoil(file)
    for _ in range(2):
        with pytest.raises(TokensError, match=str(file)):
            tokens.table()
    tokens_file(tmp_path, alice="secret")
    assert tokens.table().who("secret") == "alice"


def test_a_file_that_anybody_may_write_is_refused(tmp_path: Path) -> None:
    file = tokens_file(tmp_path)
    file.chmod(0o666)
    with pytest.raises(TokensError, match="chmod o-w"):
        Tokens(file).table()
    file.chmod(0o664)
    assert Tokens(file).table().names


def test_a_pipe_is_refused_and_nobody_waits_for_it(tmp_path: Path) -> None:
    file = tmp_path / "admin-tokens"
    os.mkfifo(file)
    with pytest.raises(TokensError, match="a pipe can be read once only"):
        Tokens(file).table()


def test_tokens_are_random_and_long() -> None:
    made = {make_token("alice")[0] for _ in range(100)}
    assert len(made) == 100
    assert all(secret.startswith("sn_") and len(secret) == 46 for secret in made)


def test_adding_keeps_what_is_there_and_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# ours\n{LINE}")
    file.chmod(0o640)
    secret, token = make_token("bot")
    add_token(file, token)
    assert file.read_text() == f"# ours\n{LINE}\n{token.line}\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert Tokens(file).table().who(secret) == "bot"


def test_a_mark_of_a_windows_editor_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(b"\xef\xbb\xbf" + make_token("ann")[1].line.encode() + b"\r\n")
    add_token(file, make_token("bot")[1])
    assert [token.name for token in read_tokens(file)] == ["ann", "bot"]


def test_a_file_that_is_no_file_of_tokens_by_its_size_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("#" * (2 << 20))
    with pytest.raises(TokensError, match=r"2097152 bytes; at most 1048576"):
        read_tokens(file)


def test_a_file_that_is_wrong_is_not_added_to(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("what is this\n")
    with pytest.raises(TokensError, match="tokens:1: not a token"):
        add_token(file, make_token("bot")[1])
    assert file.read_text() == "what is this\n"
    with pytest.raises(TokensError, match="cannot be written"):
        add_token(tmp_path / "tokens" / "below", make_token("bot")[1])


def test_a_folder_is_neither_made_nor_taken_for_the_file(tmp_path: Path) -> None:
    with pytest.raises(TokensError, match=f"no such folder {tmp_path / 'nope'}; make it first"):
        add_token(tmp_path / "nope" / "tokens", make_token("bot")[1])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TokensError, match=f"{tmp_path}: a folder; name the file"):
        read_tokens(tmp_path)


def test_two_commands_at_once_lose_no_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    names = [f"t{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: add_token(file, make_token(name)[1]), names))
    assert sorted(token.name for token in parse_tokens(file.read_text(), file)) == sorted(names)
