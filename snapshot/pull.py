"""From a remote registry into a folder: only what is not there yet travels, and nothing exists before all of it is proven.

A pull works in ``.pulling-<id>`` beside the snapshots, which a kill leaves behind and the next pull of that id goes on with:
``parts/<sha256>`` holds the beginning of a file, ``<id>/`` the files whose hash was right. Published is what is complete.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from snapshot.errors import (
    DiskFullError,
    HashMismatchError,
    ManifestError,
    MissingFileError,
    NewerSchemaError,
    RemoteConflictError,
    SignatureError,
    SnapshotError,
    TransferCancelledError,
    UnknownSnapshotError,
)
from snapshot.fetch import Part, Source, Wanted, request_threads
from snapshot.files import atomic_write, sha256
from snapshot.layout import MANIFEST, SIGNATURE, Layout
from snapshot.manifest import MAX_MANIFEST_BYTES, FileEntry, Manifest, parse_manifest, read_bytes
from snapshot.paths import is_id, refuse_snapshot
from snapshot.progress import NullProgress, Progress
from snapshot.publish import is_intact
from snapshot.registry import FULL, Registry, unwritable
from snapshot.seal import files_of
from snapshot.signing import Trust, check_form, read_signature
from snapshot.staging import PULLING, Held
from snapshot.stores import Store

_LOOK_SECONDS = 0.1
_SPARE_BYTES = 16 << 20
"""Left free on a disk that others write to as well."""
_SIGNATURE_LIMIT_BYTES = 4096


def never() -> bool:
    """Nobody cancels."""
    return False


def no_limit(needed_bytes: int) -> None:
    """Any number of bytes has room."""


def free_bytes(root: Path) -> int:
    """What may be fetched into a registry's folder; below 0 where not even what others need is left."""
    return shutil.disk_usage(root).free - _SPARE_BYTES


@dataclass(frozen=True, slots=True)
class PullOptions:
    """What a pull may do and whom it tells.

    Attributes:
        trust: whose signatures count, checked before the manifest is parsed; None checks none.
        progress: hears of bytes.
        cancelled: asked before each piece.
        who: for the history.
        make_room: told how many bytes will travel, before any does; raises where they have no room.
        nearby: folders of snapshots on this machine that files may be linked from, beside those of the registry.
        mend: read all of a snapshot that is there already, and put it right where it is damaged. One that a service has
            refused is read in any case.
    """

    trust: Trust | None = None
    progress: Progress = field(default_factory=NullProgress)
    cancelled: Callable[[], bool] = never
    who: str | None = None
    make_room: Callable[[int], None] = no_limit
    nearby: Sequence[Path] = ()
    mend: bool = False


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came of a pull.

    Attributes:
        manifest: of the snapshot, which is in the registry now.
        fetched_bytes: that travelled.
        linked_bytes: of files that another snapshot on this machine had.
        resumed_bytes: that an earlier attempt had fetched.
        new: it was not there before, or not intact.
    """

    manifest: Manifest
    fetched_bytes: int = 0
    linked_bytes: int = 0
    resumed_bytes: int = 0
    new: bool = True


def pull_snapshot(store: Store, snapshot_id: str, registry: Registry, options: PullOptions | None = None) -> Pulled:
    """Bring a snapshot into the registry, under its id. What is complete there already does not travel again.

    A snapshot that is there and damaged is mended, where ``options.mend`` or a service's refusal has it looked at: only
    the files that are wrong travel.

    Raises:
        UnknownSnapshotError: the remote registry has no such snapshot.
        SignatureError, ManifestError, UnsafePathError: its manifest is refused.
        MissingFileError, HashMismatchError, IntegrityError, CountMismatchError: its files are not those that were sealed.
        DiskFullError, RegistryError: the registry cannot take it.
        RemoteError: the object store.
        TransferCancelledError: ``options.cancelled`` said so.
    """
    chosen = options or PullOptions()
    if not is_id(snapshot_id):
        raise UnknownSnapshotError(f"{snapshot_id[:200]!r} is not a snapshot id")
    refuse_snapshot(registry.root)
    proof = _Proof.read(store, snapshot_id)
    if _is_whole(registry, snapshot_id, mend=chosen.mend):
        return _again(registry, snapshot_id, proof, store, chosen.trust)
    with _writing(registry.root), _alone(registry.root, snapshot_id, chosen.cancelled) as held:
        if _is_whole(registry, snapshot_id, mend=chosen.mend):  # another process was faster
            held.delete()
            return _again(registry, snapshot_id, proof, store, chosen.trust)
        return _Pull(store, registry, held.folder, chosen).run(snapshot_id, proof)


def _is_whole(registry: Registry, snapshot_id: str, *, mend: bool) -> bool:
    """Whether nothing is to be brought; reads all of the snapshot only where there is a reason to."""
    if snapshot_id not in registry.ids():
        return False
    return not (mend or registry.was_refused(snapshot_id)) or is_intact(registry.layout(snapshot_id).root)


@dataclass(frozen=True, slots=True)
class _Proof:
    """What says what the files must be."""

    manifest: bytes
    signature: bytes | None

    @classmethod
    def read(cls, store: Store, snapshot_id: str) -> _Proof:
        key = f"{snapshot_id}/{MANIFEST}"
        manifest = store.read(key, MAX_MANIFEST_BYTES)
        if manifest is None:
            raise UnknownSnapshotError(
                f"{store.of(key)}: not there; push it with: python -m snapshot push {snapshot_id} {store.where}"
            )
        where = f"{snapshot_id}/{SIGNATURE}"
        signature = store.read(where, _SIGNATURE_LIMIT_BYTES)
        return cls(manifest.content, check_form(signature.content, store.of(where)) if signature else None)

    def write_signature(self, folder: Path) -> None:
        if self.signature is not None:
            with atomic_write(Layout(folder).signature, staging=folder.parent) as handle:
                handle.write(self.signature)


def _again(registry: Registry, snapshot_id: str, proof: _Proof, store: Store, trust: Trust | None) -> Pulled:
    """It is there; a signature, or another one, may have been made since."""
    layout = registry.layout(snapshot_id)
    if read_bytes(layout.manifest) != proof.manifest:
        raise RemoteConflictError(
            f"{store.of(snapshot_id)}: not the {snapshot_id} that is in {registry.root}; remove the one that is wrong, or where "
            "it is damaged there, push it again from an intact copy: python -m snapshot push ID URL --again"
        )
    if proof.signature is not None and not _holds(layout.root, proof.signature):
        if trust is not None:
            trust.check_signature(proof.signature, proof.manifest, store.of(f"{snapshot_id}/{SIGNATURE}"))
        with registry.locked():
            proof.write_signature(layout.root)
    if trust is not None:
        trust.check(layout.root, proof.manifest)
    return Pulled(registry.read(snapshot_id), new=False)


def _holds(folder: Path, signature: bytes) -> bool:
    try:
        return read_signature(folder) == signature
    except SignatureError:
        return False


class _Pull:
    """One pull, in a folder that it has for itself."""

    def __init__(self, store: Store, registry: Registry, work: Path, options: PullOptions) -> None:
        self._store = store
        self._registry = registry
        self._parts = work / "parts"
        self._work = work
        self._options = options
        self._fetched = self._linked = self._resumed = 0

    def run(self, snapshot_id: str, proof: _Proof) -> Pulled:
        folder = self._work / snapshot_id
        manifest = self._prove(folder, proof, self._store.of(f"{snapshot_id}/{MANIFEST}"))
        if manifest.id != snapshot_id:
            raise ManifestError(
                f"{self._store.of(snapshot_id)}: the manifest is that of {manifest.id!r}; do not use this snapshot"
            )
        self._check_listing(manifest)
        self._clear(folder, manifest)
        wanted = self._missing(folder, manifest.files)
        try:
            self._fetch(snapshot_id, wanted)
        except OSError as error:
            if error.errno in FULL:  # what is left of a full disk is for others
                shutil.rmtree(self._work, ignore_errors=True)
            raise
        with atomic_write(Layout(folder).manifest) as handle:
            handle.write(proof.manifest)
        self._registry.publish(folder, self._options.who)
        shutil.rmtree(self._work, ignore_errors=True)
        return Pulled(manifest, self._fetched, self._linked, self._resumed)

    def _prove(self, folder: Path, proof: _Proof, where: str) -> Manifest:
        """The manifest, once its signature was checked."""
        folder.mkdir(parents=True, exist_ok=True)
        Layout(folder).signature.unlink(missing_ok=True)
        proof.write_signature(folder)
        if self._options.trust is not None:
            self._options.trust.check(folder, proof.manifest)
        try:
            return parse_manifest(proof.manifest, Path(where))
        except NewerSchemaError:
            raise
        except ManifestError as error:
            raise ManifestError(f"{error}, from an intact copy: python -m snapshot push ID URL --again") from error

    def _check_listing(self, manifest: Manifest) -> None:
        """Before a byte travels: the store has every file, in its size."""
        sizes = self._store.sizes(manifest.id)
        for name, entry in manifest.files.items():
            size, where = sizes.get(f"{manifest.id}/{name}"), self._store.of(f"{manifest.id}/{name}")
            if size is None:
                raise MissingFileError(f"{where}: missing; push the snapshot again: python -m snapshot push {manifest.id} URL")
            if size != entry.bytes:
                raise HashMismatchError(
                    f"{where}: {size} bytes, {entry.bytes} were sealed; push it again: python -m snapshot push {manifest.id} URL"
                )

    def _clear(self, folder: Path, manifest: Manifest) -> None:
        """Whatever an earlier attempt left that this manifest does not name."""
        Layout(folder).manifest.unlink(missing_ok=True)
        for name, path in files_of(folder).items():
            if name not in manifest.files:
                path.unlink()
        self._parts.mkdir(exist_ok=True)
        hashes = {entry.sha256 for entry in manifest.files.values()}
        for path in self._parts.iterdir():
            if path.name not in hashes:
                path.unlink()

    def _missing(self, folder: Path, files: Mapping[str, FileEntry]) -> list[Wanted]:
        """Files that must travel, each content once; the others are brought to their place."""
        near = self._nearby()
        wanted: dict[str, Wanted] = {}
        for name, entry in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_file() and not target.is_symlink() and _is(target, entry):
                self._resumed += entry.bytes
            elif self._link(near.get(entry.sha256, []), target, entry):
                self._linked += entry.bytes
            else:
                target.unlink(missing_ok=True)
                wanted.setdefault(entry.sha256, Wanted(name, entry, [])).targets.append(target)
        return list(wanted.values())

    def _nearby(self) -> dict[str, list[Path]]:
        """Where files of a hash may lie on this machine, the latest first."""
        found: dict[str, list[Path]] = {}
        for folder in [*(self._registry.root / one for one in reversed(self._registry.ids())), *self._options.nearby]:
            try:
                manifest = parse_manifest(read_bytes(Layout(folder).manifest), folder)
            except SnapshotError:
                continue
            for name, entry in manifest.files.items():
                found.setdefault(entry.sha256, []).append(folder / name)
        return found

    def _link(self, sources: Sequence[Path], target: Path, entry: FileEntry) -> bool:
        """Link to a file with this content; hashed before, since a disk may have changed it."""
        for source in sources:
            try:
                if _is(source, entry):
                    target.unlink(missing_ok=True)
                    os.link(source, target, follow_symlinks=False)
                    return True
            except OSError:  # removed meanwhile, or on another file system
                continue
        return False

    def _fetch(self, snapshot_id: str, wanted: list[Wanted]) -> None:
        """Fetch what is missing; what was resumed and came out wrong is fetched once more from its beginning."""
        todo = [Part(self._parts / one.entry.sha256, one) for one in wanted]
        left = sum(part.left for part in todo)
        self._resumed += sum(part.at for part in todo)
        self._check_room(left)
        self._options.progress.begin(f"pull {snapshot_id}", left)
        with request_threads(self._store.options.connections) as pool:
            ranged = any(part.left > self._store.options.chunk_bytes for part in todo) and self._store.has_ranges(
                f"{snapshot_id}/{MANIFEST}"
            )
            damaged = self._round(snapshot_id, pool, todo, ranged=ranged)
            if damaged:
                self._options.progress.begin(f"pull {snapshot_id} again", sum(part.left for part in damaged))
                for part in self._round(snapshot_id, pool, damaged, ranged=ranged):
                    part.refuse(self._store.of(f"{snapshot_id}/{part.wanted.name}"))

    def _round(self, snapshot_id: str, pool: ThreadPoolExecutor, parts: Sequence[Part], *, ranged: bool) -> list[Part]:
        """Parts that came out wrong, empty again; an error instead where one was not resumed."""
        damaged = []
        source = Source(self._store, snapshot_id, pool, ranged)
        for part, pieces in source.of(parts):
            resumed = part.at > 0
            with part.opened() as handle:
                for piece in pieces:
                    self._go_on()
                    part.add(handle, piece, self._store.of(f"{snapshot_id}/{part.wanted.name}"))
                    self._fetched += len(piece)
                    self._options.progress.advance(len(piece))
            if part.is_right():
                part.place()
            elif resumed:
                part.restart()
                damaged.append(part)
            else:
                part.refuse(self._store.of(f"{snapshot_id}/{part.wanted.name}"))
        return damaged

    def _go_on(self) -> None:
        if self._options.cancelled():
            raise TransferCancelledError(
                f"{self._store.where}: the pull was cancelled; what has arrived is kept for the next one"
            )

    def _check_room(self, needed: int) -> None:
        self._options.make_room(needed)
        if needed > free_bytes(self._registry.root):
            free = shutil.disk_usage(self._registry.root).free
            raise DiskFullError(
                f"{self._registry.root}: {needed / 1e6:.1f} MB must be fetched, {free / 1e6:.1f} MB are free; "
                "make room, for example with: python -m snapshot gc --keep 3"
            )


@contextmanager
def _alone(root: Path, snapshot_id: str, cancelled: Callable[[], bool]) -> Iterator[Held]:
    """The folder of this pull, once no other process works in it."""
    folder = root / f"{PULLING}{snapshot_id}"
    waiting = threading.Event()
    while True:
        root.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        try:
            held = Held(folder)
        except (BlockingIOError, FileNotFoundError):  # another one works in it, or has just removed it
            if cancelled():
                raise TransferCancelledError(f"{folder}: cancelled while another process was pulling") from None
            waiting.wait(_LOOK_SECONDS)
            continue
        try:
            if held.is_at(folder):
                yield held
                return
        finally:
            held.close()


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    """OSErrors of the registry's folder as ours."""
    try:
        yield
    except OSError as error:
        raise unwritable(root, error) from error


def _is(path: Path, entry: FileEntry) -> bool:
    return path.stat().st_size == entry.bytes and sha256(path) == entry.sha256
