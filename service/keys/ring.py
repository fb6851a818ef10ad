"""The keys that hold now, with what is left of their rates; a thread of its own reads the file again when it has changed."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from prometheus_client import Counter

from service.deadline import Clock
from service.errors import KeysFileError
from service.keys.bucket import Bucket
from service.keys.file import LONGEST_KEY_BYTES, ApiKey, digest_of, read_keys
from service.keys.metrics import KeyMetrics

POLL_SECONDS = 1.0
"""Within which a changed file holds, and a revoked key does not."""
_SELECTOR_BYTES = 8
"""Of the digest, to find the one entry that is compared. Who sends a key cannot steer its digest, so finding it tells nothing."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
    """A key in use.

    Attributes:
        bucket: None where its rate is not limited.
        counts: its requests by outcome.
    """

    key: ApiKey
    bucket: Bucket | None
    counts: Mapping[str, Counter]


class KeyRing:
    """Knows the keys of one file. ``find`` is for the event loop, ``refresh`` for any other thread."""

    def __init__(self, path: Path, metrics: KeyMetrics, clock: Clock = time.monotonic) -> None:
        """Read the file.

        Args:
            path: of the file, which has to be right at first.
            metrics: hears of every key.
            clock: monotonic seconds, for the rates.

        Raises:
            KeysFileError: as ``read_keys``.
        """
        self._path = path
        self.metrics = metrics
        self._clock = clock
        self._nobody = Holder(ApiKey("", secrets.token_bytes(32)), None, {})
        self._holders: Mapping[bytes, Holder] = {}
        self._seen = _stamp(path)
        self._take(read_keys(path))
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def find(self, secret: bytes) -> Holder | None:
        """Whose key this is. One digest and one comparison, whatever is given and however many keys there are."""
        given = digest_of(secret) if len(secret) <= LONGEST_KEY_BYTES else b""
        holder = self._holders.get(given[:_SELECTOR_BYTES], self._nobody)
        matches = hmac.compare_digest(holder.key.digest, given)
        return holder if matches and holder is not self._nobody else None

    def refresh(self) -> None:
        """Read the file if it is another one than before; while it is wrong, what it said before holds, and the log says so."""
        seen = _stamp(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._take(read_keys(self._path))
        except KeysFileError as error:
            self.metrics.spoiled()
            _log.error("api_keys_invalid", reason=str(error), remedy="correct the file; until then the keys before it hold")

    def start(self) -> None:
        """Refresh now and then, in a thread."""
        self._thread = threading.Thread(target=self._run, name="api-keys", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """End the thread, if there is one."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            self.refresh()

    def _take(self, keys: Iterable[ApiKey]) -> None:
        """One assignment: a request sees the keys before or after. What is left of a rate stays if the rate does."""
        before = {holder.key.name: holder.bucket for holder in self._holders.values()}
        made = [Holder(key, self._bucket(key, before.get(key.name)), self.metrics.of(key.name)) for key in keys]
        self._holders = {holder.key.digest[:_SELECTOR_BYTES]: holder for holder in made}
        self.metrics.known(holder.key.name for holder in made)
        _log.info("api_keys_read", path=str(self._path), names=[holder.key.name for holder in made])

    def _bucket(self, key: ApiKey, before: Bucket | None) -> Bucket | None:
        if key.rate_per_second is None:
            return None
        if before is not None and (before.rate_per_second, before.burst) == (key.rate_per_second, key.burst):
            return before
        return Bucket(key.rate_per_second, key.burst, self._clock)


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file does; empty where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
