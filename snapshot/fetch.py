"""Fetching the missing bytes of files: several requests at a time, each file written in its order and hashed as it comes."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from snapshot.errors import HashMismatchError, MissingFileError, RemoteUnavailableError
from snapshot.manifest import FileEntry
from snapshot.stores import Store

_CUT_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Wanted:
    """A content that must travel, by one of its names, and where it goes."""

    name: str
    entry: FileEntry
    targets: list[Path]


class Part:
    """A file that is being fetched: as much of its beginning as there is, and the hash of that."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self._path = path
        self.wanted = wanted
        self._digest = hashlib.sha256()
        self.at = 0
        if path.is_file() and path.stat().st_size <= wanted.entry.bytes:
            self.at = path.stat().st_size
            with path.open("rb") as handle:
                while piece := handle.read(1 << 20):
                    self._digest.update(piece)

    @property
    def left(self) -> int:
        return self.wanted.entry.bytes - self.at

    def opened(self) -> BinaryIO:
        return self._path.open("ab" if self.at else "wb")

    def add(self, handle: BinaryIO, piece: bytes, where: str) -> None:
        if len(piece) > self.left:
            self.refuse(where)
        handle.write(piece)
        self._digest.update(piece)
        self.at += len(piece)

    def is_right(self) -> bool:
        return self.left == 0 and self._digest.hexdigest() == self.wanted.entry.sha256

    def place(self) -> None:
        """Give the content its names."""
        first, *others = self.wanted.targets
        with self._path.open("rb") as handle:
            os.fsync(handle.fileno())
        self._path.rename(first)
        for target in others:
            _link_or_copy(first, target)

    def restart(self) -> None:
        self._path.unlink(missing_ok=True)
        self._digest = hashlib.sha256()
        self.at = 0

    def refuse(self, where: str) -> None:
        """HashMismatchError."""
        size, found, entry = self.at, self._digest.hexdigest(), self.wanted.entry
        self.restart()
        what = (
            f"sha256 {found[:12]}…, {entry.sha256[:12]}… was sealed"
            if size == entry.bytes
            else f"not the {entry.bytes} bytes that were sealed"
        )
        raise HashMismatchError(f"{where}: {what}; push it again from an intact copy: python -m snapshot push ID URL --again")


class Source:
    """The missing bytes of files in their order, fetched ahead by several requests at a time."""

    def __init__(self, store: Store, snapshot_id: str, pool: ThreadPoolExecutor, ranged: bool) -> None:
        self._store = store
        self._snapshot_id = snapshot_id
        self._pool = pool
        self._ranged = ranged

    def of(self, parts: Sequence[Part]) -> Iterator[tuple[Part, Iterator[bytes]]]:
        """For each part its missing pieces, which must be used up before the next part is asked for."""
        plans = [(part, self._requests_of(part)) for part in parts]
        ahead = _Ahead(self._pool, [one for _, plan in plans for one in plan], self._store.options.connections)
        for part, plan in plans:
            key = f"{self._snapshot_id}/{part.wanted.name}"
            yield part, _found(self._store.of(key), ahead.take(len(plan)) if plan or not part.left else self._streamed(part, key))

    def _requests_of(self, part: Part) -> list[Callable[[], bytes]]:
        """One request for a small file, several for a large one, none where the store gives no ranges of it."""
        key, size, chunk = f"{self._snapshot_id}/{part.wanted.name}", part.wanted.entry.bytes, self._store.options.chunk_bytes
        if size <= chunk and part.at == 0:
            return [partial(self._store.whole, key)] if size else []
        if not self._ranged:
            return []
        return [partial(self._store.part, key, start, min(chunk, size - start)) for start in range(part.at, size, chunk)]

    def _streamed(self, part: Part, key: str) -> Iterator[bytes]:
        """The rest of a file, though the store sends it from its beginning."""
        cuts = 0
        while part.left:
            skip, before = part.at, part.at
            try:
                for piece in self._store.stream(key):
                    if len(piece) > skip:
                        yield piece[skip:]
                    skip = max(0, skip - len(piece))
                return
            except RemoteUnavailableError:
                cuts += 1
                if cuts > _CUT_ATTEMPTS or part.at == before:
                    raise


class _Ahead:
    """Results of requests in their order, of which ``count`` run or wait to be taken at a time."""

    def __init__(self, pool: ThreadPoolExecutor, requests: Sequence[Callable[[], bytes]], count: int) -> None:
        self._pool = pool
        self._requests = iter(requests)
        self._running: deque[Future[bytes]] = deque()
        for _ in range(count):
            self._begin()

    def take(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            result = self._running.popleft().result()
            self._begin()
            yield result

    def _begin(self) -> None:
        request = next(self._requests, None)
        if request is not None:
            self._running.append(self._pool.submit(request))


def _found(where: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """MissingFileError where the object is not there."""
    try:
        yield from pieces
    except FileNotFoundError as error:
        raise MissingFileError(f"{where}: missing; push the snapshot again") from error


@contextmanager
def request_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for requests; after an error nobody waits for those that are under way."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="pull")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
