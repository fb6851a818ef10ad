"""Shards through an object store: what workers need is put there, and what they make, so that nodes share no file system.

Below ``ray.store``::

    towers/<fingerprint>.json, towers/<fingerprint>/...    the document tower and the hashes of its files
    shards/<key>.task.json                                 texts and text spec of a shard; the key is the hash of this object
    shards/<key>.npy, shards/<key>.json                    its vectors, and their hash, written last

A shard whose vectors are there is not encoded again, whoever asked for it before. Nothing is ever deleted: that is the
store's own rule of expiry.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from offline.encode import Part, ShardTask, encode_shard
from offline.errors import WorkerError
from offline.progress import say
from offline.ranking import Floats
from offline.runners import Runner
from snapshot.errors import SnapshotError
from snapshot.files import sha256
from snapshot.manifest import TextSpec
from snapshot.paths import check_paths
from snapshot.stores import Store, folder_of, open_store

Task = TypeVar("Task")
Result = TypeVar("Result")
_MOST_JSON_BYTES = 1 << 30
_READ_BYTES = 8 << 20


@dataclass(frozen=True)
class StoredTask:
    """Shard ``key`` of the store at ``url``, for the tower ``fingerprint``."""

    url: str
    key: str
    fingerprint: str


class StoreRunner:
    """Encodes shards by another runner, to which it hands their addresses; the driver reads no vectors but the finished ones.

    Raises:
        WorkerError: the store cannot be read or written; says what and where.
    """

    def __init__(self, inner: Runner, url: str) -> None:
        self._inner = inner
        self._url = url
        self._shipped: set[str] = set()

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """As ``Runner.run``; the function is ``encode_shard``, the only one that this runner knows."""
        if function is not encode_shard:
            raise WorkerError(f"ray.store: only documents are encoded through a store, not {function.__name__}")
        shards = cast("Iterable[ShardTask]", tasks)
        return cast("Iterator[tuple[Task, Result]]", self._encoded(shards))

    def _encoded(self, shards: Iterable[ShardTask]) -> Iterator[tuple[ShardTask, Floats]]:
        with _told(self._url):
            store = open_store(self._url)
            if "://" not in self._url:  # workers run where their node was started
                self._url = str(folder_of(self._url).resolve())
        waiting: dict[str, ShardTask] = {}
        for stored, digest in self._inner.run(encode_stored, _Handed(self._hand_over, store, shards, waiting)):
            with _told(self._url):
                vectors = _vectors(store, stored.key, digest)
            yield waiting.pop(stored.key), vectors

    def _hand_over(self, store: Store, shard: ShardTask, waiting: dict[str, ShardTask]) -> StoredTask:
        content = _task_json(shard)
        key = hashlib.sha256(content).hexdigest()
        with _told(self._url):
            if shard.fingerprint not in self._shipped:
                _ship(store, shard.tower, shard.fingerprint)
                self._shipped.add(shard.fingerprint)
            store.write(f"shards/{key}.task.json", content)
        waiting[key] = shard
        return StoredTask(self._url, key, shard.fingerprint)


@dataclass(frozen=True)
class _Handed:
    """Shards by address, put into the store when their turn comes."""

    hand_over: Callable[[Store, ShardTask, dict[str, ShardTask]], StoredTask]
    store: Store
    shards: Iterable[ShardTask]
    waiting: dict[str, ShardTask]

    def __len__(self) -> int:
        return len(cast("Sized", self.shards))

    def __iter__(self) -> Iterator[StoredTask]:
        return (self.hand_over(self.store, shard, self.waiting) for shard in self.shards)


def encode_stored(task: StoredTask) -> str:
    """Encode one shard from the store into the store; the hash of the object with its vectors.

    Raises:
        WorkerError: the store cannot be read or written, or what is there is not what was put there.
    """
    with _told(task.url):
        store = open_store(task.url)
        done = _read_json(store, f"shards/{task.key}.json")
        if done is not None and _is_there(store, f"shards/{task.key}.npy"):
            return str(done.get("sha256"))
        shard = _shard(store.whole(f"shards/{task.key}.task.json"), task, _fetched(task.url, task.fingerprint))
        vectors = io.BytesIO()
        np.save(vectors, encode_shard(shard), allow_pickle=False)
        digest = hashlib.sha256(vectors.getbuffer()).hexdigest()
        vectors.seek(0)
        store.send(f"shards/{task.key}.npy", iter(lambda: vectors.read(_READ_BYTES), b""))
        store.write(f"shards/{task.key}.json", json.dumps({"sha256": digest}).encode())
        return digest


def _is_there(store: Store, key: str) -> bool:
    """Stores that let objects expire take them one by one."""
    try:
        return bool(store.part(key, 0, 1))
    except FileNotFoundError:
        return False


def _task_json(shard: ShardTask) -> bytes:
    named = {
        "part": asdict(shard.part),
        "documents": list(shard.documents),
        "fingerprint": shard.fingerprint,
        "spec": shard.spec.model_dump(mode="json"),
        "batch_size": shard.batch_size,
        "progress": shard.progress,
    }
    return json.dumps(named, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _shard(content: bytes, task: StoredTask, tower: Path) -> ShardTask:
    if hashlib.sha256(content).hexdigest() != task.key:
        raise WorkerError(f"{task.url}/shards/{task.key}.task.json: other content than its name says; remove it")
    named = json.loads(content)
    documents = cast("Sequence[Mapping[str, str]]", named["documents"])
    spec = TextSpec.model_validate_json(json.dumps(named["spec"]))
    return ShardTask(Part(**named["part"]), documents, tower, task.fingerprint, spec, named["batch_size"], named["progress"])


def _vectors(store: Store, key: str, digest: str) -> Floats:
    content = store.whole(f"shards/{key}.npy")
    if hashlib.sha256(content).hexdigest() != digest:
        raise WorkerError(
            f"{store.of(f'shards/{key}.npy')}: other content than its receipt says; remove shards/{key}.json and run again"
        )
    return cast("Floats", np.load(io.BytesIO(content), allow_pickle=False))


def _ship(store: Store, tower: Path, fingerprint: str) -> None:
    """Put a tower into the store, unless all of it is there; its list of files last."""
    files = {path.relative_to(tower).as_posix(): path for path in sorted(tower.rglob("*")) if path.is_file()}
    listed = {name: sha256(path) for name, path in files.items()}
    sizes = {f"towers/{fingerprint}/{name}": path.stat().st_size for name, path in files.items()}
    if (
        _read_json(store, f"towers/{fingerprint}.json") == listed
        and sizes.items() <= store.sizes(f"towers/{fingerprint}").items()
    ):
        return
    say(f"  the document tower goes to {store.of(f'towers/{fingerprint}')}")
    for name, path in files.items():
        with path.open("rb") as handle:
            store.send(f"towers/{fingerprint}/{name}", iter(lambda handle=handle: handle.read(_READ_BYTES), b""))  # type: ignore[misc]  # the default is no argument to mypy
    store.write(f"towers/{fingerprint}.json", json.dumps(listed).encode())


@lru_cache(maxsize=4)
def _fetched(url: str, fingerprint: str) -> Path:
    """Where the tower lies on this node; fetched and compared with its hashes unless another process has done so."""
    store, cache = open_store(url), Path(tempfile.gettempdir()) / f"scalingnote-towers-{os.getuid()}"
    listed = _read_json(store, f"towers/{fingerprint}.json")
    if listed is None:
        raise WorkerError(f"{store.of(f'towers/{fingerprint}.json')}: there is no such tower; run the same command again")
    check_paths(listed, store.of(f"towers/{fingerprint}.json"))
    cache.mkdir(mode=0o700, exist_ok=True)
    if cache.stat().st_uid != os.getuid():
        raise WorkerError(f"{cache}: belongs to somebody else; remove it")
    folder = cache / fingerprint
    if _is_whole(folder, listed):
        return folder
    staging = Path(tempfile.mkdtemp(prefix=f".{fingerprint[:12]}-", dir=cache))
    for name in listed:
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        with (staging / name).open("wb") as handle:
            handle.writelines(store.stream(f"towers/{fingerprint}/{name}"))
    if not _is_whole(staging, listed):
        shutil.rmtree(staging)
        raise WorkerError(
            f"{store.of(f'towers/{fingerprint}')}: not the tower that was put there; remove towers/{fingerprint}.json"
        )
    return _settled(staging, folder, listed)


def _settled(staging: Path, folder: Path, listed: Mapping[str, str]) -> Path:
    """The folder by its name, or, where that is taken by something else, as it is."""
    try:
        staging.rename(folder)
    except OSError:
        if not _is_whole(folder, listed):
            return staging
        shutil.rmtree(staging)
    return folder


def _is_whole(folder: Path, listed: Mapping[str, str]) -> bool:
    return all((folder / name).is_file() and sha256(folder / name) == digest for name, digest in listed.items())


def _read_json(store: Store, key: str) -> dict[str, str] | None:
    found = store.read(key, _MOST_JSON_BYTES)
    try:
        named = None if found is None else json.loads(found.content)
    except ValueError as error:
        raise WorkerError(f"{store.of(key)}: not JSON ({error}); remove it and run again") from error
    if not isinstance(named, dict | None):
        raise WorkerError(f"{store.of(key)}: not a JSON object; remove it and run again")
    return cast("dict[str, str] | None", named)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """The store's errors in this program's words, with the name of the machine."""
    try:
        yield
    except (SnapshotError, OSError) as error:
        raise WorkerError(f"{platform.node()}: ray.store {url}: {error}") from error
