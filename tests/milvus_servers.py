"""Milvus servers on loopback: milvus-lite, and snapshots whose vectors are in one."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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

from offline.config_milvus import MilvusConfig
from offline.milvus import Content, connected, name_collection, write
from snapshot.collection import fields_of
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
    index = write_vectors(uri, oracle.documents, documents_table(oracle.texts))

    def with_index(draft: Draft) -> Draft:
        return replace(revise(draft), index=index)

    layout = make_snapshot(folder, rows, seed=seed, tamper=_without_file, revise=with_index)
    if publish:
        name_collection(read_manifest(layout.manifest), MilvusConfig(uri=uri))
    return layout


def _without_file(layout: Layout) -> None:
    layout.index.unlink()
    layout.index.parent.rmdir()


def run_in_namespace(command: Sequence[str]) -> int:
    """Run a command where there is no network but a loopback of its own, which needs root."""
    script = 'ip link set lo up && exec "$@"'
    return subprocess.call(["unshare", "--net", "bash", "-c", script, "bash", *command])


REAL = "SCALINGNOTE_TEST_MILVUS"
"""URI of a real Milvus server that tests may fill; ``python -m tests.scale contract`` starts one and sets it."""


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
    real = pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no server")
    return ["milvus-lite", pytest.param("milvus", marks=[pytest.mark.milvus, real])]


def uri_of(kind: str) -> str:
    return os.environ[REAL] if kind == "milvus" else shared_lite().uri
