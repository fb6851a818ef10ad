"""Milvus' own protocol, a call at a time: one attempt, in the time that it is given, with a named error for whatever happens.

The stubs are pymilvus'. Its client is not used where requests wait: it repeats failed calls until their timeout, and makes
connections anew under a lock, for seconds beyond any deadline.
"""

from __future__ import annotations

import base64
import codecs
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc, schema_pb2

from service.engines.base import Rows, Vectors
from service.engines.remote import MilvusServer
from snapshot.collection import METRIC, VECTOR
from snapshot.errors import (
    CollectionMissingError,
    EngineDeniedError,
    EngineError,
    EngineLateError,
    EngineRefusedError,
    EngineUnavailableError,
)

logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

_NOT_FOUND = (4, 100)
"""CollectionNotExists of Milvus 2.2, CollectionNotFound since."""
_INVALID_PARAMETER = 1100
_UNEXPECTED = (1, 65535)
"""What Milvus 2.2 and 2.3 say of an expression that they cannot read, as of much else; the text tells them apart."""
_PLAN = ("cannot parse expression", "failed to create query plan")
_LITE_ILLEGAL = 6
"""milvus-lite 3 puts it into both fields of a status; of the real ones' status.code it is a fault of the server's."""
_DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_DEFAULT_PORT = 19530
_CONNECT_MS = 5_000
"""Longest that a connection may take to come about: gRPC's least pause between two tries is that bound too."""
_RECONNECT_MS = 1000
"""gRPC waits for up to two minutes otherwise."""


class ExpressionRefusedError(EngineRefusedError):
    """The expression of a search cannot be read or compared there; the server is well.

    Attributes:
        said: what it says of the expression, without where the server is.
    """

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


class Wire:
    """Calls to one server, over one connection that many threads share."""

    def __init__(self, server: MilvusServer) -> None:
        """No connection is made before the first call.

        Raises:
            EngineDeniedError: a file of the server's credentials cannot be read.
        """
        self.uri = server.uri or ""
        self._database = server.database
        self._metadata = _metadata(server)
        self._channel = _channel(server)
        self._stub: Any = milvus_pb2_grpc.MilvusServiceStub(self._channel)

    def close(self) -> None:
        """End the connection, and whatever waits for it."""
        self._channel.close()

    def search(
        self, collection: str, queries: Vectors, k: int, probes: int, expression: str, timeout_seconds: float
    ) -> tuple[list[int], Vectors, Rows]:
        """How many hits each query has, and the scores float32[all] and rows int64[all] of them, best first."""
        parameters = {
            "anns_field": VECTOR,
            "topk": str(k),
            "metric_type": METRIC,
            "params": json.dumps({"nprobe": probes}),
            "round_decimal": "-1",
        }
        request = milvus_pb2.SearchRequest(
            db_name=self._database,
            collection_name=collection,
            dsl=expression,
            dsl_type=common_pb2.DslType.BoolExprV1,
            placeholder_group=_placeholders(queries),
            search_params=[common_pb2.KeyValuePair(key=key, value=value) for key, value in parameters.items()],
            nq=len(queries),
            consistency_level=common_pb2.ConsistencyLevel.Bounded,
        )
        found = self._call(self._stub.Search, request, timeout_seconds).results
        rows = np.array(found.ids.int_id.data, np.int64)
        return list(found.topks), np.array(found.scores, np.float32), rows

    def count(self, collection: str, timeout_seconds: float) -> int:
        """Rows as of now, whatever was written a moment ago."""
        [column] = self._query(collection, "", ["count(*)"], common_pb2.ConsistencyLevel.Strong, timeout_seconds)
        return int(_values(column)[0])

    def rows(self, collection: str, expression: str, names: Sequence[str], timeout_seconds: float) -> dict[str, list[Any]]:
        """Values of some fields of the rows that an expression selects, by name; vectors one after the other."""
        strong = common_pb2.ConsistencyLevel.Strong
        columns = self._query(collection, expression, names, strong, timeout_seconds)
        return {column.field_name: list(_values(column)) for column in columns}

    def fields(self, collection: str, timeout_seconds: float) -> dict[str, str]:
        """Type by name of the fields, as ``snapshot.collection.fields_of`` has them."""
        request = milvus_pb2.DescribeCollectionRequest(db_name=self._database, collection_name=collection)
        schema = self._call(self._stub.DescribeCollection, request, timeout_seconds).schema
        return {each.name: _type(each) for each in schema.fields}

    def loaded(self, collection: str, timeout_seconds: float) -> bool:
        """Whether it can be searched."""
        request = milvus_pb2.GetLoadStateRequest(db_name=self._database, collection_name=collection)
        state = self._call(self._stub.GetLoadState, request, timeout_seconds).state
        return bool(state == common_pb2.LoadState.LoadStateLoaded)

    def load(self, collection: str, timeout_seconds: float) -> None:
        """Have it loaded; does not wait for that."""
        request = milvus_pb2.LoadCollectionRequest(db_name=self._database, collection_name=collection, replica_number=0)
        self._call(self._stub.LoadCollection, request, timeout_seconds)

    def collections(self, timeout_seconds: float) -> list[str]:
        """Names of all."""
        request = milvus_pb2.ShowCollectionsRequest(db_name=self._database)
        return sorted(self._call(self._stub.ShowCollections, request, timeout_seconds).collection_names)

    def aliases(self, collection: str, timeout_seconds: float) -> list[str]:
        """Names that point at it."""
        request = milvus_pb2.ListAliasesRequest(db_name=self._database, collection_name=collection)
        return sorted(self._call(self._stub.ListAliases, request, timeout_seconds).aliases)

    def drop(self, collection: str, timeout_seconds: float) -> None:
        """Remove it."""
        request = milvus_pb2.DropCollectionRequest(db_name=self._database, collection_name=collection)
        self._call(self._stub.DropCollection, request, timeout_seconds)

    def _query(self, collection: str, expression: str, names: Sequence[str], level: int, timeout_seconds: float) -> list[Any]:
        request = milvus_pb2.QueryRequest(
            db_name=self._database,
            collection_name=collection,
            expr=expression,
            output_fields=names,
            consistency_level=level,
        )
        return list(self._call(self._stub.Query, request, timeout_seconds).fields_data)

    def _call(self, method: Callable[..., Any], request: Any, timeout_seconds: float) -> Any:
        if timeout_seconds <= 0:
            raise EngineLateError(f"{self.uri}: no time is left to ask")
        try:
            answer = method(request, timeout=timeout_seconds, metadata=self._metadata)
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed meanwhile
            raise self._told(error, timeout_seconds) from error
        status = answer if isinstance(answer, common_pb2.Status) else answer.status
        if status.code or status.error_code:
            raise self._refused(status)
        return answer

    def _told(self, error: Exception, timeout_seconds: float) -> EngineError:
        code = error.code() if isinstance(error, grpc.RpcError) else None
        detail = f"{error.details()}"[:300] if isinstance(error, grpc.RpcError) else str(error)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return EngineLateError(f"{self.uri}: no answer within {timeout_seconds * 1000:.0f} ms; look at the server's load")
        if code in _DENIED:
            return EngineDeniedError(f"{self.uri}: {detail}; look at milvus_token_file")
        rest = "is it running, and does milvus_ca_file fit" if self.uri.startswith("https:") else "and is it running"
        return EngineUnavailableError(f"{self.uri}: {detail}; is this the address of a Milvus server (milvus_uri), {rest}?")

    def _refused(self, status: Any) -> EngineError:
        reason = f"{status.reason.strip()[:300]} (code {status.code or status.error_code})"
        said = f"{self.uri}: {reason}"
        if status.code in _NOT_FOUND or (not status.code and status.error_code in _NOT_FOUND):
            return CollectionMissingError(f"{said}; run its recipe again, which writes it anew, or activate another snapshot")
        return ExpressionRefusedError(said, reason) if _is_expression(status) else EngineRefusedError(said)


def _is_expression(status: Any) -> bool:
    if status.code == _INVALID_PARAMETER or status.code == status.error_code == _LITE_ILLEGAL:
        return True
    return (status.code or status.error_code) in _UNEXPECTED and any(words in status.reason for words in _PLAN)


def _metadata(server: MilvusServer) -> list[tuple[str, str]]:
    found = [("dbname", server.database)] if server.database else []
    if server.token_file is not None:
        token = _read(server.token_file).removeprefix(codecs.BOM_UTF8).strip()
        found.append(("authorization", base64.b64encode(token).decode()))
    return found


def _read(path: Path) -> bytes:
    rest = "look at the settings milvus_..._file"
    if path.is_fifo():
        raise EngineDeniedError(f"{path}: cannot be read (a pipe can be read once only: name a file); {rest}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineDeniedError(f"{path}: cannot be read ({error.strerror}); {rest}") from error


def _read_pem(path: Path) -> bytes:
    content = _read(path)
    if b"-----BEGIN " not in content:
        raise EngineDeniedError(f"{path}: is no PEM, which begins with -----BEGIN; look at the settings milvus_..._file")
    return content


def _channel(server: MilvusServer) -> grpc.Channel:
    parts = urlsplit(server.uri or "")
    host = parts.hostname or ""
    target = f"{f'[{host}]' if ':' in host else host}:{parts.port or (443 if parts.scheme == 'https' else _DEFAULT_PORT)}"
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", _CONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if parts.scheme != "https":
        # By no proxy of the environment, which could read the token, and need not know a server of ours.
        return grpc.insecure_channel(target, [*options, ("grpc.enable_http_proxy", 0)])
    files = (server.ca_file, server.key_file, server.cert_file)
    credentials = grpc.ssl_channel_credentials(*(None if path is None else _read_pem(path) for path in files))
    return grpc.secure_channel(target, credentials, options)


def _placeholders(queries: Vectors) -> bytes:
    values = [query.tobytes() for query in np.ascontiguousarray(queries, "<f4")]
    group = common_pb2.PlaceholderGroup(
        placeholders=[common_pb2.PlaceholderValue(tag="$0", type=common_pb2.PlaceholderType.FloatVector, values=values)]
    )
    serialised: bytes = group.SerializeToString()
    return serialised


def _type(described: Any) -> str:
    name = str(schema_pb2.DataType.Name(described.data_type)).upper()
    if name != "FLOATVECTOR":
        return name
    return f"FLOAT_VECTOR({next((each.value for each in described.type_params if each.key == 'dim'), '')})"


def _values(column: Any) -> Sequence[Any]:
    if column.WhichOneof("field") == "vectors":
        floats: Sequence[Any] = column.vectors.float_vector.data
        return floats
    scalars = column.scalars
    kind = scalars.WhichOneof("data")
    values: Sequence[Any] = getattr(scalars, kind).data if kind else ()
    return values
