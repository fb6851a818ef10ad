"""A Milvus server that refuses a search: only what it says of the expression is the caller's; all else is told to the breaker."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pymilvus")

import grpc
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc

from service.engines.breaker import State
from service.engines.milvus import MilvusEngine
from service.engines.milvus_wire import Wire
from service.engines.remote import MilvusServer
from service.errors import InvalidRequestError
from snapshot.errors import EngineRefusedError, EngineUnavailableError
from snapshot.manifest import Effort, MilvusIndex
from snapshot.selection import Selection

ROWS, DIM = 1000, 8
INDEX = MilvusIndex(
    reason="toy",
    default_effort=4,
    efforts=(Effort(effort=4, recall_at_10=1.0, p50_ms=1.0, p99_ms=2.0),),
    collection="snapshot_x",
    nlist=64,
    rows=ROWS,
    fields={"row": "INT64", "vector": f"FLOAT_VECTOR({DIM})"},
    fingerprint="0" * 64,
)
QUERY = np.ones((1, DIM), np.float32)
FILTER = Selection.of_mask(np.arange(ROWS) < 600)


class Refusing(milvus_pb2_grpc.MilvusServiceServicer):  # type: ignore[misc]
    """Every search ends with ``status``; the collection is loaded."""

    status: Any = None

    def Search(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - the protocol's name
        return milvus_pb2.SearchResults(status=self.status)

    def GetLoadState(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - as above
        return milvus_pb2.GetLoadStateResponse(state=common_pb2.LoadState.LoadStateLoaded)


@dataclass
class Asked:
    """An engine, and the server that it asks."""

    engine: MilvusEngine
    server: Refusing

    def refuse(self, code: int, legacy: int, reason: str) -> None:
        self.server.status = common_pb2.Status(code=code, error_code=legacy, reason=reason)


@pytest.fixture
def asked() -> Iterator[Asked]:
    refusing, running = Refusing(), grpc.server(ThreadPoolExecutor(2))
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(refusing, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    server = MilvusServer(f"http://127.0.0.1:{port}")
    engine = MilvusEngine(Wire(server), INDEX, (), DIM, server)
    yield Asked(engine, refusing)
    engine.close()
    running.stop(None).wait()


@pytest.mark.parametrize(
    ("code", "legacy", "reason"),
    [
        (8, 1, "rate limit exceeded: query rate is limited by collection, retry later"),
        (2, 1, "service unavailable: node offline"),
        (6, 1, "cross cluster routing"),
        (101, 101, "failed to search: collection not loaded"),
        (503, 1, "channel not available"),
        (601, 1, "segment not loaded"),
        (65535, 1, "failed to search: attempt #0: context deadline exceeded"),
        (0, 1, "fail to search on all shard leaders"),
    ],
)
@pytest.mark.parametrize("selection", [None, FILTER], ids=["plain", "filtered"])
def test_a_server_that_cannot_search_is_at_fault_whatever_the_filter(
    asked: Asked, selection: Selection | None, code: int, legacy: int, reason: str
) -> None:
    asked.refuse(code, legacy, reason)
    for _ in range(3):
        with pytest.raises(EngineRefusedError, match=reason):
            asked.engine.search(QUERY, 3, 4, selection)
    assert asked.engine.breaker.state is not State.CLOSED
    with pytest.raises(EngineUnavailableError, match="is not asked for now"):
        asked.engine.search(QUERY, 3, 4, selection)


@pytest.mark.parametrize(
    ("code", "legacy", "reason"),
    [
        (1100, 1, "failed to create query plan: cannot parse expression: f0 == 1, error: field f0 not exist: invalid parameter"),
        (65535, 1, "failed to create query plan: cannot parse expression: f0 <, error: line 1:5 no viable alternative"),
        (0, 1, "failed to create query plan: cannot parse expression: f0 <, error: line 1:5 no viable alternative"),
        (6, 6, "comparison '==' between incompatible types at column 5"),
    ],
    ids=["2.4", "2.3.5", "2.2", "lite"],
)
def test_an_expression_that_a_server_cannot_read_is_the_callers_and_opens_nothing(
    asked: Asked, code: int, legacy: int, reason: str
) -> None:
    asked.refuse(code, legacy, reason)
    for _ in range(5):
        with pytest.raises(InvalidRequestError, match=r"filter: the engine of this snapshot does not take it") as refused:
            asked.engine.search(QUERY, 3, 4, FILTER)
        assert "127.0.0.1" not in str(refused.value)
    assert asked.engine.breaker.state is State.CLOSED
    with pytest.raises(EngineRefusedError):  # without a filter nobody has sent an expression
        asked.engine.search(QUERY, 3, 4)


def test_what_milvus_lite_says_of_an_expression_is_told_apart() -> None:
    pytest.importorskip("milvus_lite")
    import pyarrow as pa
    from milvus_servers import shared_lite, write_vectors

    vectors = np.random.default_rng(0).normal(size=(64, DIM)).astype(np.float32)
    index = write_vectors(shared_lite().uri, vectors, pa.table({"id": [str(row) for row in range(64)]}))
    server = MilvusServer(shared_lite().uri)
    engine = MilvusEngine.open(index, (), DIM, server)
    engine._translator.expression = lambda _: "row <"  # type: ignore[method-assign]
    with pytest.raises(InvalidRequestError, match="does not take it"):
        engine.search(QUERY, 3, 1, Selection.of_mask(np.arange(64) < 40))
    assert engine.breaker.state is State.CLOSED
    engine.close()
