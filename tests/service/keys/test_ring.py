"""The keys that hold now: found by hash, read again when the file changes, kept while it is wrong."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from manual_clock import ManualClock
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

import service.keys.ring
from service.errors import KeysFileError
from service.keys.file import PERMISSIONS, add_key, entry_of, revoke_key
from service.keys.metrics import KeyMetrics
from service.keys.ring import KeyRing


class Kept:
    """A ring of a file, and what its metrics say."""

    def __init__(self, folder: Path) -> None:
        self.file, self.clock, self.registry = folder / "keys", ManualClock(), CollectorRegistry()
        self.write(shop="first", bot="second")
        self.ring = KeyRing(self.file, KeyMetrics(self.registry), self.clock)

    def write(self, **secrets: str) -> None:
        self.lines(*({"name": name, "sha256": sha256(secret.encode()).hexdigest()} for name, secret in secrets.items()))

    def lines(self, *entries: dict[str, Any]) -> None:
        new = self.file.with_suffix(".new")
        new.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
        new.rename(self.file)

    def who(self, secret: bytes) -> str | None:
        holder = self.ring.find(secret)
        return None if holder is None else holder.key.name

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"scalingnote_api_key{name}", labels)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_each_key_is_known_by_its_own_name_and_nothing_else_is(kept: Kept) -> None:
    digest = sha256(b"first")
    wrong = [b"third", b"", b"first ", b"FIRST", b"\xff", digest.digest(), digest.hexdigest().encode(), b"first" * 100]
    assert [kept.who(secret) for secret in (b"first", b"second", *wrong)] == ["shop", "bot", *[None] * len(wrong)]


@pytest.mark.parametrize("secret", [b"first", b"second", b"third", b"", b"x" * 100_000])
def test_finding_is_one_digest_and_one_comparison_whatever_is_given(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, secret: bytes
) -> None:
    hashed: list[int] = []
    compared: list[bool] = []
    digest, compare = service.keys.ring.digest_of, hmac.compare_digest
    monkeypatch.setattr(service.keys.ring, "digest_of", lambda given: (hashed.append(len(given)), digest(given))[1])
    monkeypatch.setattr(service.keys.ring.hmac, "compare_digest", lambda a, b: (compared.append(compare(a, b)), compared[-1])[1])
    found = kept.ring.find(secret)
    assert (found is not None) == (secret in (b"first", b"second"))
    assert compared == [found is not None]
    assert hashed == ([len(secret)] if len(secret) < 1000 else [])


def test_a_changed_file_holds_and_an_unchanged_one_is_not_read(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.keys.ring, "read_keys", lambda path: pytest.fail("read without a change"))
    kept.ring.refresh()
    monkeypatch.undo()
    kept.write(bot="second", new="third")
    kept.ring.refresh()
    assert [kept.who(secret) for secret in (b"first", b"second", b"third")] == [None, "bot", "new"]


def test_commands_change_what_holds(kept: Kept) -> None:
    secret = add_key(kept.file, entry_of("web", PERMISSIONS, None, None, None)).encode()
    assert kept.who(secret) is None
    kept.ring.refresh()
    assert kept.who(secret) == "web"
    revoke_key(kept.file, "web")
    kept.ring.refresh()
    assert (kept.who(secret), kept.who(b"first")) == (None, "shop")


@pytest.mark.parametrize(
    "spoil", [Path.unlink, lambda path: path.write_text('{"name": "half'), lambda path: path.write_bytes(b"\xff")]
)
def test_while_the_file_is_wrong_the_keys_before_it_hold_and_it_is_said_once(kept: Kept, spoil: Callable[[Path], object]) -> None:
    spoil(kept.file)
    with capture_logs() as said:
        for _ in range(3):
            kept.ring.refresh()
    assert [(line["event"], line["log_level"]) for line in said] == [("api_keys_invalid", "error")]
    assert str(kept.file) in said[0]["reason"]
    assert kept.who(b"first") == "shop"
    assert (kept.metric("s_file_valid"), kept.metric("s")) == (0, 2)
    kept.write(bot="second")
    kept.ring.refresh()
    assert (kept.who(b"first"), kept.who(b"second")) == (None, "bot")
    assert (kept.metric("s_file_valid"), kept.metric("s")) == (1, 1)


def test_a_file_that_is_wrong_at_first_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeysFileError, match="python -m service key new NAME"):
        KeyRing(tmp_path / "missing", KeyMetrics(CollectorRegistry()))


def test_series_are_of_names_in_the_file_only(kept: Kept) -> None:
    holder = kept.ring.find(b"first")
    assert holder is not None
    holder.counts["admitted"].inc()
    assert kept.metric("_requests_total", key="shop", outcome="admitted") == 1
    kept.write(bot="second")
    kept.ring.refresh()
    holder.counts["admitted"].inc()
    assert kept.metric("_requests_total", key="shop", outcome="admitted") is None
    assert kept.metric("_requests_total", key="bot", outcome="expired") == 0
    kept.write(shop="first")
    kept.ring.refresh()
    assert kept.metric("_requests_total", key="shop", outcome="admitted") == 0


def test_what_is_left_of_a_rate_stays_while_the_rate_does(kept: Kept) -> None:
    entry = {"name": "shop", "sha256": sha256(b"first").hexdigest(), "rate_per_second": 1, "burst": 2}

    def takes(secret: bytes) -> list[bool]:
        holder = kept.ring.find(secret)
        assert holder is not None
        assert holder.bucket is not None
        return [holder.bucket.take() == 0.0 for _ in range(3)]

    for more, expected in (
        ({}, [True, True, False]),
        ({"expires_at": "2030-01-01T00:00:00Z"}, [False, False, False]),
        ({"burst": 1}, [True, False, False]),
    ):
        kept.lines({**entry, **more})
        kept.ring.refresh()
        assert takes(b"first") == expected
    kept.lines({**entry, "rate_per_second": None, "burst": None})
    kept.ring.refresh()
    holder = kept.ring.find(b"first")
    assert holder is not None
    assert holder.bucket is None
