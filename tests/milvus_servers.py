"""Milvus servers on loopback: milvus-lite, and snapshots whose vectors are in one."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pytest
from make_snapshot import documents_table, make_oracle, make_snapshot, same
from pymilvus.grpc_gen import milvus_pb2, milvus_pb2_grpc
from remote_engines import REAL_SERVER

from offline.config_milvus import MilvusConfig
from offline.index import Ruler
from offline.milvus import Content, connected, describe, name_collection, write
from offline.publish import COLLECTION
from offline.ranking import exact_top_k
from snapshot.collection import fields_of
from snapshot.files import write_text
from snapshot.layout import Layout
from snapshot.manifest import Effort, MilvusIndex, read_manifest
from snapshot.seal import Draft

START_SECONDS = 90.0
LITE = "from milvus_lite.cmdline import main; raise SystemExit(main())"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass
class MilvusLite:
    """A milvus-lite server over a folder; may be killed and started again on the same port."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: psutil.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, wait: bool = True) -> None:
        command = [sys.executable, "-c", LITE, "server", "--data-dir", str(self.folder), "--host", "127.0.0.1"]
        with (self.folder.parent / f"lite-{self.port}.log").open("a") as log:
            self.process = psutil.Popen([*command, "--port", str(self.port)], stdout=log, stderr=log, env={**os.environ})
        if wait:
            wait_for(f"127.0.0.1:{self.port}")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class MilvusReal:
    """The real server of the package ``milvus``, which binds all interfaces: for a network namespace of its own."""

    folder: Path
    port: int = 19532
    process: psutil.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, wait: bool = True) -> None:
        program, command, environment = self.folder / "bin" / "milvus", [], dict(os.environ)
        if program.exists():  # the package's own start would take other ports than those that closing connections still hold
            command = [str(program), "run", "standalone"]
            environment |= {
                "DEPLOY_MODE": "STANDALONE",
                "METRICS_PORT": "9091",
                "MILVUS_RUN_DIR": str(self.folder / "run"),
                "LD_LIBRARY_PATH": str(program.parent),
            }
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            server = Path(sys.executable).with_name("milvus-server")
            command = [str(server), "--data", str(self.folder), "--proxy-port", str(self.port)]
        with (self.folder.parent / "milvus.log").open("a") as log:
            self.process = psutil.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True)
        if wait:
            wait_for(f"127.0.0.1:{self.port}")
            while not self._is_healthy():
                time.sleep(0.1)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen("http://127.0.0.1:9091/healthz", timeout=5) as answer:
                return bool(answer.read() == b"OK")
        except OSError:
            return False


def wait_for(target: str, seconds: float = START_SECONDS) -> None:
    """Until a server answers there, by its protocol."""
    end = time.monotonic() + seconds
    while True:
        with grpc.insecure_channel(target) as channel:
            stub = milvus_pb2_grpc.MilvusServiceStub(channel)
            try:
                stub.ShowCollections(milvus_pb2.ShowCollectionsRequest(), timeout=5, wait_for_ready=True)
                return
            except grpc.RpcError:
                if time.monotonic() > end:
                    raise


@contextmanager
def milvus_lite(folder: Path) -> Iterator[MilvusLite]:
    """A server of its own."""
    server = MilvusLite(folder / "milvus")
    server.start()
    try:
        yield server
    finally:
        server.kill()


def write_vectors(uri: str, vectors: npt.NDArray[np.float32], documents: pa.Table, nlist: int | None = None) -> MilvusIndex:
    """Write a collection as the walk does, and describe it; its efforts are not measured."""
    content = Content(vectors, documents, stored=True)
    if nlist is not None:
        content.nlist = nlist
    with connected(MilvusConfig(uri=uri)) as client:
        write(client, content, 60.0)
    return described(content)


def measured(uri: str, vectors: npt.NDArray[np.float32], documents: pa.Table, queries: npt.NDArray[np.float32]) -> MilvusIndex:
    """The same, with efforts that are measured, as the walk does."""
    content, ruler = Content(vectors, documents, stored=True), Ruler(queries, exact_top_k(queries, vectors, 10)[0], 0.98)
    with connected(MilvusConfig(uri=uri)) as client:
        write(client, content, 600.0)
        return describe(client, content, ruler, len(queries))


def described(content: Content) -> MilvusIndex:
    efforts = [Effort(effort=effort, recall_at_10=1.0, p50_ms=5.0, p99_ms=50.0) for effort in sorted({1, content.nlist})]
    return MilvusIndex(
        reason="toy",
        default_effort=content.nlist,
        efforts=tuple(efforts),
        collection=content.building,
        nlist=content.nlist,
        rows=len(content.vectors),
        fields=fields_of(content.columns, content.vectors.shape[1]),
        fingerprint=content.fingerprint,
    )


def make_milvus_snapshot(
    folder: Path, uri: str, rows: int = 200, *, seed: int = 0, revise: Callable[[Draft], Draft] = same, publish: bool = True
) -> Layout:
    """A toy snapshot whose vectors are in a collection there, named by it."""
    oracle = make_oracle(rows, seed=seed)
    queries = oracle.encode([" ".join(text.split()[:3]) for text in oracle.texts[:32]])
    index = measured(uri, oracle.documents, documents_table(oracle.texts), queries)

    def with_index(draft: Draft) -> Draft:
        return replace(revise(draft), index=index)

    layout = make_snapshot(folder, rows, seed=seed, tamper=_without_file, revise=with_index)
    if publish:
        name_collection(read_manifest(layout.manifest), MilvusConfig(uri=uri), index.collection)
    else:
        write_text(folder / COLLECTION, index.collection)
    return layout


def _without_file(layout: Layout) -> None:
    layout.index.unlink()
    layout.index.parent.rmdir()


@cache
def shared_lite() -> MilvusLite:
    """A server for all tests of this process, which nobody may stop."""
    folder = Path(tempfile.mkdtemp(prefix="milvus-"))
    server = MilvusLite(folder / "milvus")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    server.start()
    return server


def server_params() -> list[Any]:
    """``milvus-lite`` always, ``milvus`` where a real one is there."""
    real = pytest.mark.skipif(REAL_SERVER not in os.environ, reason=f"{REAL_SERVER} names no server")
    return ["milvus-lite", pytest.param("milvus", marks=[pytest.mark.milvus, real])]


def uri_of(kind: str) -> str:
    return os.environ[REAL_SERVER] if kind == "milvus" else shared_lite().uri
