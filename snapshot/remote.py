"""Registries elsewhere: push to, pull from and follow a registry in an object store or in another folder.

See docs/adr/0023-remote-registries.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from snapshot import pointer
from snapshot.errors import NothingPublishedError, RemoteAddressError, RemoteUnavailableError, SnapshotError
from snapshot.leases import hold
from snapshot.paths import refuse_snapshot
from snapshot.pointer import Seen
from snapshot.pull import Pulled, PullOptions, pull_snapshot
from snapshot.push import Pushed, PushOptions, push_snapshot
from snapshot.registry import Desire, Registry
from snapshot.stores import CURRENT, Store, StoreOptions, check_url, folder_of, is_folder, open_store, require


class Remote:
    """The registry at a URL: ``s3://BUCKET/PREFIX``, ``gs://…``, ``az://…``, ``file:///…`` or a path.

    A folder is a registry as any other: its pointer moves under its lock, and its history is written.
    """

    def __init__(self, url: str, options: StoreOptions | None = None, *, make: bool = False) -> None:
        """Nothing is sent yet. ``make`` a missing folder.

        Raises:
            LibraryMissingError, RemoteAddressError, RegistryError: that can never be one; or it is a snapshot.
        """
        check_url(url)
        require()
        self.url = url
        self._options = options
        self._folder = Registry(folder_of(url)) if is_folder(url) else None
        if self._folder is not None:
            refuse_snapshot(self._folder.root)
            if make:
                self._folder.root.mkdir(parents=True, exist_ok=True)

    @cached_property
    def _store(self) -> Store:
        """Opened when it is needed: a folder may be mounted later."""
        if self._folder is not None and not self._folder.root.is_dir():
            raise RemoteAddressError(f"{self.url}: no such folder; create it, or check the path and the mount")
        return open_store(self.url, self._options)

    def is_at(self, folder: Path) -> bool:
        """Whether it is the registry in this folder, by whatever name."""
        if self._folder is None:
            return False
        there = self._folder.root
        try:
            return there.resolve() == folder.resolve() or there.samefile(folder)
        except OSError:  # one of them is not there yet
            return False

    def desired(self) -> Desire | None:
        """What operators want served, or None; UnknownSnapshotError where CURRENT is no id, RemoteError otherwise."""
        if self._folder is not None:
            return self._folder.desired()
        return pointer.read_desire(self._store)

    def look(self) -> Seen:
        """The pointer alone, in one request."""
        if self._folder is None:
            return pointer.look(self._store)
        try:
            mark = str((self._folder.root / CURRENT).stat().st_mtime_ns)
        except FileNotFoundError as error:
            if self._folder.root.is_dir():
                return Seen(None, "")
            raise RemoteUnavailableError(f"{self.url}: the folder is gone; check the mount") from error
        return Seen(self._folder.current(), mark)

    def activate(self, snapshot_id: str, why: str = "", who: str | None = None, *, force: bool = False) -> str | None:
        """Declare the snapshot to serve, which must be there; returns what was wanted before.

        Raises:
            UnknownSnapshotError: it is not there.
            ReasonMissingError: forced without a reason.
            RemoteConflictError: somebody else was faster; theirs holds.
        """
        if self._folder is None:
            return pointer.move(self._store, snapshot_id, why, who, force=force).previous
        before = self._folder.current()
        self._folder.activate(snapshot_id, why, who, force)
        return before

    def push(self, registry: Registry, snapshot_id: str, options: PushOptions | None = None) -> Pushed:
        """Bring a snapshot of ``registry`` there; see ``push_snapshot``. Into a folder it is a pull from the other side."""
        with _kept(registry, snapshot_id):
            return self._push(registry, snapshot_id, options)

    def _push(self, registry: Registry, snapshot_id: str, options: PushOptions | None) -> Pushed:
        if self._folder is None:
            return push_snapshot(registry, snapshot_id, self._store, options)
        source = open_store(str(registry.root), self._options)
        chosen = options or PushOptions()
        near = [registry.layout(snapshot_id).root]
        pulling = PullOptions(progress=chosen.progress, nearby=near, mend=chosen.again)
        done = pull_snapshot(source, snapshot_id, self._folder, pulling)
        return Pushed(done.manifest, done.fetched_bytes, done.linked_bytes, done.resumed_bytes, done.new)

    def pull(self, snapshot_id: str, registry: Registry, options: PullOptions | None = None) -> Pulled:
        """Bring a snapshot from there into ``registry``; see ``pull_snapshot``."""
        chosen = options or PullOptions()
        if self._folder is None:
            return pull_snapshot(self._store, snapshot_id, registry, chosen)
        chosen = replace(chosen, nearby=[*chosen.nearby, self._folder.root / snapshot_id])
        with _kept(self._folder, snapshot_id):
            return pull_snapshot(self._store, snapshot_id, registry, chosen)


def push(registry: Registry, url: str, ids: Sequence[str] = (), options: PushOptions | None = None) -> list[Pushed]:
    """Push snapshots, in this order; the one that is wanted unless any is named.

    Raises:
        NothingPublishedError: none is named, and nothing is wanted.
        SnapshotError: as ``Remote.push``.
    """
    chosen = ids or [_wanted(registry.current(), str(registry.root))]
    remote = Remote(url, make=True)
    return [remote.push(registry, one, options) for one in chosen]


def pull(url: str, registry: Registry, ids: Sequence[str] = (), options: PullOptions | None = None) -> list[Pulled]:
    """Pull snapshots, in this order; the one that is wanted there unless any is named.

    Raises:
        NothingPublishedError: none is named, and nothing is wanted.
        SnapshotError: as ``Remote.pull``.
    """
    remote = Remote(url)
    chosen = ids or [_wanted(remote.look().snapshot, url)]
    return [remote.pull(one, registry, options) for one in chosen]


@contextmanager
def _kept(registry: Registry, snapshot_id: str) -> Iterator[None]:
    """Hold a lease while a snapshot is read, which may take hours: gc leaves it alone. What has none says so when it is read."""
    with ExitStack() as held:
        with suppress(SnapshotError):
            held.enter_context(hold(registry.layout(snapshot_id).root))
        yield


def _wanted(current: str | None, where: str) -> str:
    if current is None:
        raise NothingPublishedError(f"{where}: nothing is activated there; name a snapshot's id")
    return current
