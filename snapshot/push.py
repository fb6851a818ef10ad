"""From a registry's folder into an object store: only what is not there yet travels, the manifest last.

Whoever reads the store finds no manifest, or one whose files are all there. That needs no conditional writes: an id and
the paths below it always mean the same bytes (the id has a digest of them in it, and what differs is refused), so two who
push one snapshot at once write the same, in whatever order. Where the store keeps conditions, the manifest is written
only if there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from snapshot.errors import (
    HashMismatchError,
    ManifestError,
    NewerSchemaError,
    RemoteConflictError,
    RemoteDeniedError,
    RemoteError,
    SnapshotError,
    UnsafePathError,
)
from snapshot.files import open_plain, read_small
from snapshot.layout import MANIFEST, SIGNATURE, Layout
from snapshot.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest, read_bytes
from snapshot.progress import NullProgress, Progress
from snapshot.registry import Registry
from snapshot.signing import read_signature
from snapshot.stores import Store
from snapshot.verify import verify

_WORTH_COPYING_BYTES = 1 << 20
"""Of one file. Looking into the manifests of others for it costs requests."""
_LOOK_INTO = 4
"""Snapshots beside the parent, the latest first."""
_SIGNATURE_LIMIT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class PushOptions:
    """How to push.

    Attributes:
        again: send every file, also those that seem to be there: what is there may be damaged. Into a folder, those that are.
            A manifest there that is none is replaced.
        progress: hears of bytes.
    """

    again: bool = False
    progress: Progress = field(default_factory=NullProgress)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What came of a push.

    Attributes:
        manifest: of the snapshot, which is in the store now.
        sent_bytes: that travelled.
        copied_bytes: of files that another snapshot in the store had, and the store copied.
        kept_bytes: of files that were there.
        new: it was not there before, or its manifest was none.
    """

    manifest: Manifest
    sent_bytes: int = 0
    copied_bytes: int = 0
    kept_bytes: int = 0
    new: bool = True


def push_snapshot(registry: Registry, snapshot_id: str, store: Store, options: PushOptions | None = None) -> Pushed:
    """Bring a snapshot of the registry into an object store, under its id.

    Raises:
        SnapshotError: the registry has no such snapshot, or it is not intact.
        ManifestError: what the store has as its manifest is none, and ``again`` was not asked for.
        RemoteConflictError: the store has another snapshot of this id.
        RemoteError: the object store.
    """
    chosen = options or PushOptions()
    layout = registry.layout(snapshot_id)
    content = read_bytes(layout.manifest)
    key = f"{snapshot_id}/{MANIFEST}"
    whole = _is_there(store, key, content, again=chosen.again)
    manifest = parse_manifest(content, layout.manifest)
    sizes = {} if chosen.again else store.sizes(snapshot_id)
    missing = {name for name, entry in manifest.files.items() if sizes.get(f"{snapshot_id}/{name}") != entry.bytes}
    if missing:
        verify(layout.root)
    copied = set() if chosen.again else _copy(store, manifest, missing)
    sent = sorted(missing - copied)
    _send(store, layout, manifest, sent, chosen.progress)
    _sign(store, layout, snapshot_id)
    if not whole:
        _declare(store, key, content, again=chosen.again)
    total = {name: entry.bytes for name, entry in manifest.files.items()}
    kept = sum(total.values()) - _sum(total, missing)
    return Pushed(manifest, _sum(total, sent), _sum(total, copied), kept, new=not whole)


def _is_there(store: Store, key: str, content: bytes, *, again: bool) -> bool:
    """Whether the store has this manifest; False also for what is none, where it may be replaced."""
    there = store.read(key, MAX_MANIFEST_BYTES)
    if there is None or there.content == content:
        return there is not None
    fault = _fault(there.content, store.of(key))
    if fault is None:
        raise RemoteConflictError(f"{store.of(key)}: another snapshot of this id is there; seal yours again, or remove that one")
    if not again:
        raise ManifestError(f"{fault}, from an intact copy: python -m snapshot push ID URL --again") from fault
    return False


def _fault(content: bytes, where: str) -> ManifestError | None:
    """Why this is no manifest of any version; None where it is one."""
    try:
        parse_manifest(content, Path(where))
    except (NewerSchemaError, UnsafePathError):
        return None
    except ManifestError as error:
        return error
    return None


def _declare(store: Store, key: str, content: bytes, *, again: bool) -> None:
    """Write the manifest, unless somebody else just has; ``again``: in place of what is none."""
    try:
        store.write(key, content, "create")
    except RemoteConflictError:
        if not _is_there(store, key, content, again=again):
            store.write(key, content)


def _sign(store: Store, layout: Layout, snapshot_id: str) -> None:
    """The signature goes before the manifest; it may also be made, or made anew, after."""
    signature = read_signature(layout.root)
    if signature is None:
        return
    key = f"{snapshot_id}/{SIGNATURE}"
    there = store.read(key, _SIGNATURE_LIMIT_BYTES)
    if there is None or there.content != signature:
        store.write(key, signature)


def _copy(store: Store, manifest: Manifest, missing: set[str]) -> set[str]:
    """Let the store copy what another of its snapshots has; what it cannot copy is sent."""
    large = [name for name in missing if manifest.files[name].bytes >= _WORTH_COPYING_BYTES]
    known = _known(store, manifest) if large else {}
    copied = set()
    for name in large:
        entry = manifest.files[name]
        source = known.get((entry.sha256, entry.bytes))
        try:
            if source is not None:
                store.copy(source, f"{manifest.id}/{name}")
                copied.add(name)
        except RemoteDeniedError:
            raise
        except (RemoteError, FileNotFoundError):  # some copy no object above 5 GB, or it was removed meanwhile
            continue
    return copied


def _known(store: Store, manifest: Manifest) -> dict[tuple[str, int], str]:
    """Keys of files in the store by hash and size, as far as the snapshots say that are likely to share files."""
    others = [one for one in store.folders() if one != manifest.id]
    likely = [one for one in others if one == manifest.parent] + others[-_LOOK_INTO:]
    found: dict[tuple[str, int], str] = {}
    for one in likely:
        there = store.read(f"{one}/{MANIFEST}", MAX_MANIFEST_BYTES)
        try:
            other = None if there is None else parse_manifest(there.content, Path(store.of(one)))
        except SnapshotError:
            continue
        sizes = store.sizes(one) if other is not None else {}
        for name, entry in other.files.items() if other is not None else ():
            if sizes.get(f"{one}/{name}") == entry.bytes:
                found[entry.sha256, entry.bytes] = f"{one}/{name}"
    return found


def _send(store: Store, layout: Layout, manifest: Manifest, names: Sequence[str], progress: Progress) -> None:
    """Small files several at a time, each in one request; then large ones, several pieces of one at a time."""
    sizes = {name: manifest.files[name].bytes for name in names}
    progress.begin(f"push {manifest.id}", sum(sizes.values()))
    limit = store.options.chunk_bytes
    small = [name for name in names if sizes[name] <= limit]

    def send_small(name: str) -> int:
        content = read_small(layout.root / name, limit)
        store.write(f"{manifest.id}/{name}", content)
        return len(content)

    with ThreadPoolExecutor(store.options.connections, thread_name_prefix="push") as pool:
        try:
            for count in pool.map(send_small, small):
                progress.advance(count)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for name in names:
        if sizes[name] > limit:
            store.send(f"{manifest.id}/{name}", _pieces(layout.root / name, sizes[name], limit, progress.advance))


def _pieces(path: Path, size: int, piece_bytes: int, advance: Callable[[int], None]) -> Iterator[bytes]:
    """A file in pieces; an error, on which the store forgets what it has, where it is not of that size any more."""
    with open_plain(path) as handle:
        left = size
        while piece := handle.read(piece_bytes):
            left -= len(piece)
            advance(len(piece))
            yield piece
    if left:
        raise HashMismatchError(f"{path}: changed while it was pushed; publish the snapshot again")


def _sum(sizes: Mapping[str, int], names: Sequence[str] | set[str]) -> int:
    return sum(sizes[name] for name in names)
