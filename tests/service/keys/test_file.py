"""The file of API keys: what a line says, what is refused by line and field, and changes that lose nothing."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from service.errors import KeysFileError
from service.keys.file import MOST_KEYS, PERMISSIONS, add_key, entry_of, parse_keys, read_keys, revoke_key

WHERE = Path("keys")
DIGEST = sha256(b"secret").hexdigest()


def line(**changes: Any) -> str:
    return json.dumps({"name": "shop", "sha256": DIGEST, **changes})


def test_a_line_says_who_may_do_what_how_often_and_until_when() -> None:
    text = line(scopes=["search"], rate_per_second=2.5, burst=7, expires_at="2027-01-01T02:00:00+02:00")
    [key] = parse_keys(f"# of May\n\n{text}\n", WHERE)
    assert (key.name, key.digest, key.scopes) == ("shop", sha256(b"secret").digest(), ("search",))
    assert (key.rate_per_second, key.burst, key.expires_at) == (2.5, 7, datetime(2027, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("end", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"])
def test_the_ends_of_time_are_times(end: str) -> None:
    [key] = parse_keys(line(expires_at=end), WHERE)
    assert key.expires_at is not None
    assert (key.expires_at <= datetime.now(UTC)) == (end < "5000")


def test_what_is_left_out_is_unlimited_and_a_burst_is_the_rate_rounded_up() -> None:
    [key] = parse_keys(line(), WHERE)
    assert (key.scopes, key.rate_per_second, key.expires_at) == (PERMISSIONS, None, None)
    assert [parse_keys(line(rate_per_second=rate), WHERE)[0].burst for rate in (0.1, 2.5, 40)] == [1, 3, 40]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("secret", "keys:2: not a JSON object of a key"),
        ('["secret"]', "keys:2: not a JSON object of a key"),
        (line(name="a b secret"), "keys:2: name: 1 to 64 of"),
        (line(name=""), "keys:2: name: 1 to 64 of"),
        (line(sha256="secret"), "keys:2: sha256: "),
        (line(sha256=f"{DIGEST}0"), "keys:2: sha256: "),
        (line(scopes=["admin"]), "keys:2: scopes.0: Input should be 'search' or 'embed'"),
        (line(scopes=[]), "keys:2: scopes: "),
        (line(rate_per_second=0), "keys:2: rate_per_second: "),
        (line(rate_per_second="5"), "keys:2: rate_per_second: "),
        (line(rate_per_second=5, burst=0), "keys:2: burst: "),
        (line(burst=5), "keys:2: burst: means nothing without rate_per_second"),
        (line(expires_at="2027-01-01T00:00:00"), "keys:2: expires_at: "),
        (line(expires_at="soon"), "keys:2: expires_at: "),
        (line(key="secret"), "keys:2: key: Extra inputs"),
    ],
)
def test_a_wrong_line_is_named_with_its_field_and_not_shown(wrong: str, message: str) -> None:
    with pytest.raises(KeysFileError) as caught:
        parse_keys(f"# first\n{wrong}\n", WHERE)
    assert str(caught.value).startswith(message)
    assert "secret" not in str(caught.value)


def test_names_and_keys_are_unique() -> None:
    with pytest.raises(KeysFileError, match=r"keys:2: name: 'shop' is in the file already"):
        parse_keys(f"{line()}\n{line(sha256='0' * 64)}", WHERE)
    with pytest.raises(KeysFileError, match=r"keys:2: sha256: this key is in the file already"):
        parse_keys(f"{line()}\n{line(name='other')}", WHERE)


def test_a_file_holds_a_thousand_keys_and_no_more() -> None:
    lines = [line(name=f"k{number}", sha256=f"{number:064x}") for number in range(MOST_KEYS + 1)]
    assert len(parse_keys("\n".join(lines[1:]), WHERE)) == MOST_KEYS
    with pytest.raises(KeysFileError, match=f"{MOST_KEYS + 1} keys; at most {MOST_KEYS}"):
        parse_keys("\n".join(lines), WHERE)


def test_a_new_key_is_long_random_and_known_by_its_hash_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = [add_key(file, entry_of(f"k{number}", ["search"], 5.0, None, None)) for number in range(20)]
    assert len(set(made)) == 20
    assert all(secret.startswith("snk_") and len(secret) == 47 for secret in made)
    assert [key.digest for key in read_keys(file)] == [sha256(secret.encode()).digest() for secret in made]
    assert not [secret for secret in made if secret[4:] in file.read_text()]


def test_a_name_that_is_taken_or_a_value_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    add_key(file, entry_of("shop", PERMISSIONS, None, None, None))
    before = file.read_text()
    with pytest.raises(KeysFileError, match="'shop' is in the file already"):
        add_key(file, entry_of("shop", PERMISSIONS, None, None, None))
    for values, field in (
        (("a b", PERMISSIONS, None, None, None), "name"),
        (("a", ["admin"], None, None, None), r"scopes\.0"),
        (("a", PERMISSIONS, -1.0, None, None), "rate_per_second"),
        (("a", PERMISSIONS, float("nan"), None, None), "rate_per_second"),
    ):
        with pytest.raises(KeysFileError, match=f"^{field}: "):
            entry_of(*values)
    with pytest.raises(KeysFileError, match="burst: means nothing"):
        add_key(file, entry_of("a", PERMISSIONS, None, 3, None))
    assert file.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


def test_adding_and_revoking_keep_comments_the_other_lines_and_the_mode(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{line()}")
    file.chmod(0o640)
    add_key(file, entry_of("bot", ["embed"], None, None, None))
    revoke_key(file, "shop")
    assert file.read_text().startswith("# ours\n{")
    assert [key.name for key in read_keys(file)] == ["bot"]
    assert file.stat().st_mode & 0o777 == 0o640
    with pytest.raises(KeysFileError, match="no key of the name 'shop'; there are: bot"):
        revoke_key(file, "shop")


def test_a_folder_is_neither_made_nor_taken_for_the_file(tmp_path: Path) -> None:
    with pytest.raises(KeysFileError, match=f"no such folder {tmp_path / 'nope'}; make it first"):
        add_key(tmp_path / "nope" / "keys", entry_of("shop", PERMISSIONS, None, None, None))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeysFileError, match=f"^{tmp_path}: a folder; name the file of keys$"):
        read_keys(tmp_path)


def test_two_commands_at_once_lose_no_key(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    names = [f"k{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: add_key(file, entry_of(name, PERMISSIONS, None, None, None)), names))
    assert sorted(key.name for key in read_keys(file)) == sorted(names)


def test_a_file_that_is_wrong_open_to_all_or_huge_is_neither_used_nor_changed(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    for spoil, message in (
        (lambda: file.write_text("what is this\n"), "keys:1: not a JSON object"),
        (lambda: file.write_bytes(b"\xff"), "cannot be read"),
        (lambda: file.write_text("#" * (2 << 20)), "at most 1048576"),
        (lambda: (file.write_text(line()), file.chmod(0o666)), "chmod o-w"),
    ):
        spoil()
        before = file.read_bytes()
        for use in (
            lambda: read_keys(file),
            lambda: add_key(file, entry_of("bot", PERMISSIONS, None, None, None)),
            lambda: revoke_key(file, "shop"),
        ):
            with pytest.raises(KeysFileError, match=message):
                use()
        assert file.read_bytes() == before
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(KeysFileError, match="a pipe can be read once only"):
        read_keys(file)
    file.unlink()
    file.touch()
    with pytest.raises(KeysFileError, match="cannot be written"):
        add_key(file / "below", entry_of("bot", PERMISSIONS, None, None, None))
