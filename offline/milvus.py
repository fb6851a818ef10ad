"""The vectors in a collection of a Milvus server: written once, counted, measured, and named by the snapshot when published.

Until it is published a collection is called ``build_...``, by a name that no other run has, which the stage keeps: a killed run
finds its own, two runs of one recipe do not write into each other's, and only what was counted is renamed.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from offline.config_milvus import MilvusConfig
from offline.data.prepared import Prepared
from offline.efforts import default_effort
from offline.encoded import load_vectors
from offline.errors import DataError, MilvusError, RecipeError
from offline.index import POINTS_PER_CENTROID, Ruler, load_description, summary, write_description
from offline.progress import say, track
from offline.ranking import Floats, Rows, recall_with_ties
from offline.stages import Job, Summary, is_finished
from offline.walk import stage_of
from snapshot.collection import (
    BLANKS,
    ID,
    MAX_TEXT_BYTES,
    METRIC,
    ROW,
    STORED,
    VECTOR,
    fields_of,
    filterable,
    fingerprint,
    sampled_fields,
    sampled_rows,
    there_field,
    value_field,
)
from snapshot.documents import columns_of
from snapshot.files import write_text
from snapshot.layout import MANIFEST, Layout
from snapshot.manifest import Column, Effort, Manifest, MilvusIndex, collection_name

if TYPE_CHECKING:
    from pymilvus import MilvusClient

V = TypeVar("V")

_BLOCK_ROWS = 500
"""Of one insertion: with texts of the greatest length, half of the 64 MB that a server takes."""
_MOST_LISTS = 65_536
_WRITTEN = "written"
"""File of the stage, with the collection's name; it is there before the collection, so that a killed run leaves none behind."""
_GONE = "not on the server: it was dropped, or is another snapshot's; `python -m offline run` writes it anew"
_REACH_SECONDS = 10.0
_CHANNEL = {"grpc.keepalive_permit_without_calls": False, "grpc.use_local_subchannel_pool": 1}
"""Of the library's own: pymilvus pings an idle connection so often that gRPC servers close it ("too many pings"), and channels
to one server would share it."""
_PLAIN = {"grpc.enable_http_proxy": 0}
"""Without TLS by no proxy of the environment, which could read the token, and need not know a server of ours."""


def build(job: Job) -> Summary:
    """Write the collection, or take the one that a killed run has finished, and measure it as it will be served.

    Raises:
        MilvusError: the server does not answer, or refuses.
        DataError: a value is longer than Milvus holds.
    """
    vectors, documents = load_vectors(job.inputs["encode"]), Prepared(job.inputs["prepare"]).documents
    written = job.folder / _WRITTEN
    name = written.read_text(encoding="utf-8").strip() if written.exists() else None
    content = Content(vectors, documents, stored=job.recipe.milvus.stored_fields, name=name)
    with connected(job.recipe.milvus) as client:
        if name is None or not _holds(client, name, len(vectors)):
            write_text(written, f"{content.building}\n")
            write(client, content, job.recipe.milvus.timeout_seconds)
        client.load_collection(content.building, timeout=job.recipe.milvus.timeout_seconds)
        described = describe(client, content, Ruler.make(job, vectors), job.recipe.milvus.effort_queries)
    write_description(described, job.folder)
    return summary(described, len(vectors))


class Content:
    """What goes into a collection: float32[rows, dim] and the documents of the same rows.

    Attributes:
        building: the collection's name until it is published; a new one unless a run before has chosen it.
    """

    def __init__(self, vectors: Floats, documents: pa.Table, *, stored: bool, name: str | None = None) -> None:
        self.vectors = vectors
        self.columns: Sequence[Column] = columns_of(documents.schema)
        self._documents = documents
        self._stored = stored
        rows = sampled_rows(len(vectors))
        names = sampled_fields(self.columns)
        sampled = [[row[name] for name in names] for row in self._rows(rows)]
        self.fingerprint = fingerprint(len(vectors), sampled, np.asarray(vectors[rows]))
        self.nlist = max(1, min(round(4 * math.sqrt(len(vectors))), len(vectors) // POINTS_PER_CENTROID, _MOST_LISTS))
        self.building = name or f"build_{self.fingerprint[:16]}_{secrets.token_hex(8)}"

    def blocks(self) -> Iterator[list[dict[str, Any]]]:
        """All rows, as they are inserted."""
        for start in range(0, len(self.vectors), _BLOCK_ROWS):
            yield self._rows(np.arange(start, min(start + _BLOCK_ROWS, len(self.vectors))))

    def _rows(self, rows: Rows) -> list[dict[str, Any]]:
        table = self._documents.take(pa.array(rows))
        values = {name: table.column(name).to_pylist() for name in table.column_names}
        return [self._row(int(row), {name: column[at] for name, column in values.items()}) for at, row in enumerate(rows)]

    def _row(self, row: int, values: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {ROW: row, ID: _short(values["id"], "id", row)}
        for number, column in filterable(self.columns):
            value = values[column.name]
            found[value_field(number)] = BLANKS[column.type] if value is None else _short(value, column.name, row)
            found[there_field(number)] = value is not None
        rest = {column.name: values[column.name] for column in self.columns if self._stored and not column.filterable}
        _short(json.dumps(rest, ensure_ascii=False), "milvus.stored_fields", row)
        return found | {STORED: rest, VECTOR: self.vectors[row]}


def _short(value: V, name: str, row: int) -> V:
    if isinstance(value, str) and len(value.encode()) > MAX_TEXT_BYTES:
        raise DataError(
            f"documents: {name} of row {row} has {len(value.encode())} bytes, Milvus holds {MAX_TEXT_BYTES}; shorten it, declare "
            "the column not filterable, or leave stored fields out with --set milvus.stored_fields=false"
        )
    return value


@contextmanager
def connected(config: MilvusConfig) -> Iterator[MilvusClient]:
    """A client of the server, with what goes wrong there told as MilvusError.

    Raises:
        RecipeError: the library is not installed, or a file of the recipe cannot be read.
    """
    try:
        from pymilvus import MilvusClient  # takes a second
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise RecipeError(f"index.kind: milvus needs the extra milvus ({error}); pip install 'scalingnote[milvus]'") from error
    parts = urlsplit(config.uri)
    if ":" in (parts.hostname or ""):
        raise RecipeError(
            f"milvus.uri: {config.uri}: pymilvus takes no IPv6 address; name a host that stands for it (/etc/hosts)"
        )
    options = _CHANNEL if parts.scheme == "https" else _CHANNEL | _PLAIN
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs a traceback for each error, which is told below
    try:
        client = MilvusClient(
            config.uri, db_name=config.database, timeout=config.timeout_seconds, grpc_options=options, **_secrets(config)
        )
        try:
            yield client
        finally:
            client.close()
    except MilvusException as error:
        files = "do milvus.ca_file and milvus.token_file" if parts.scheme == "https" else "does milvus.token_file"
        raise MilvusError(
            f"{config.uri}: {error.message.strip()} (code {error.code}); is this the address of a Milvus server (milvus.uri), is "
            f"it running, and {files} fit? Then run the same command again: finished stages are not repeated"
        ) from error


def reach(config: MilvusConfig) -> None:
    """Make a connection, ask something and end it; raises what ``connected`` does, soon."""
    seconds = min(config.timeout_seconds, _REACH_SECONDS)
    with connected(config.model_copy(update={"timeout_seconds": seconds})) as client:
        client.has_collection("build", timeout=seconds)


def _secrets(config: MilvusConfig) -> dict[str, str]:
    """Keyword arguments of the client."""
    found = {}
    if config.token_file is not None:
        found["token"] = _read("token_file", config.token_file).strip()
    for key, path in (("ca_file", config.ca_file), ("cert_file", config.cert_file), ("key_file", config.key_file)):
        if path is not None and "-----BEGIN " not in _read(key, path):
            raise RecipeError(f"milvus.{key}: {path}: is no PEM, which begins with -----BEGIN")
    files = {"client_pem_path": config.cert_file, "client_key_path": config.key_file}
    files["ca_pem_path" if config.cert_file else "server_pem_path"] = config.ca_file
    return found | {name: path for name, path in files.items() if path is not None}


def _holds(client: MilvusClient, name: str, rows: int) -> bool:
    """Whether the collection is there and whole."""
    if not client.has_collection(name) or not client.list_indexes(name):
        return False
    client.load_collection(name)
    return _count(client, name) == rows


def _read(key: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise RecipeError(f"milvus.{key}: {path}: cannot be read ({error.strerror})") from error


def is_there(index: MilvusIndex, config: MilvusConfig) -> bool:
    """Whether the collection is on the server, and whole."""
    with connected(config) as client:
        return _holds(client, index.collection, index.rows)


def serves(job: Job, index: MilvusIndex, later: Sequence[str]) -> bool:
    """Whether stages after this one, ``later``, have what they read: the collection, or nothing more to do.

    Publishing takes the collection away from here: it is the snapshot's. That is well as long as the stage that sealed the
    snapshot, the last of ``later``, is not to seal another.
    """
    work = job.folder.parents[later[-1].count("/")]
    sealed = [path.parent.name for path in (work / later[-1]).glob(f"*/{MANIFEST}")]
    with connected(job.recipe.milvus) as client:
        if _holds(client, index.collection, index.rows):
            return True
        published = any(_holds(client, collection_name(each), index.rows) for each in sealed)
    return published and all(is_finished(stage_of(name), work, job.recipe, job.source) for name in later)


def _count(client: MilvusClient, name: str) -> int:
    return int(client.query(name, filter="", output_fields=["count(*)"], consistency_level="Strong")[0]["count(*)"])


def write(client: MilvusClient, content: Content, timeout_seconds: float) -> None:
    """Write the collection anew; what a killed run has left is dropped."""
    name, rows = content.building, len(content.vectors)
    client.drop_collection(name)
    client.create_collection(name, schema=_schema(client, content), consistency_level="Bounded")
    for block in track(content.blocks(), "milvus, blocks written", total=-(-rows // _BLOCK_ROWS)):
        client.insert(name, block, timeout=timeout_seconds)
    client.flush(name, timeout=timeout_seconds)
    parameters = client.prepare_index_params()
    lists = {"nlist": content.nlist}
    # Twice: pymilvus sends each parameter by itself, and milvus-lite 3 reads them out of "params" only.
    parameters.add_index(VECTOR, index_type="IVF_FLAT", metric_type=METRIC, params={**lists, "params": lists})
    client.create_index(name, parameters, timeout=timeout_seconds)
    client.load_collection(name, timeout=timeout_seconds)
    found = _count(client, name)
    if found != rows:
        raise MilvusError(f"{name}: {rows} rows were written, the server counts {found}; run the same command again")
    say(f"  {rows} rows in {name}, IVF_FLAT with {content.nlist} lists")


def _schema(client: MilvusClient, content: Content) -> Any:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    for name, kind in fields_of(content.columns, content.vectors.shape[1]).items():
        options: dict[str, Any] = {"max_length": MAX_TEXT_BYTES} if kind == "VARCHAR" else {}
        if name == VECTOR:
            options["dim"] = content.vectors.shape[1]
        schema.add_field(name, DataType[kind.partition("(")[0]], is_primary=name == ROW, **options)
    return schema


def describe(client: MilvusClient, content: Content, ruler: Ruler, most_queries: int) -> MilvusIndex:
    queries, exact = ruler.queries[:most_queries], ruler.exact[:most_queries]
    probes = sorted({content.nlist, *(2**power for power in range(content.nlist.bit_length()))} - {0})
    probes = [each for each in probes if each <= content.nlist]
    efforts = [_measure(client, content.building, effort, queries, exact) for effort in track(probes, "milvus, efforts measured")]
    effort, which = default_effort(efforts, ruler.recall_target)
    return MilvusIndex(
        reason=f"milvus: the recipe asks for it; {which}",
        default_effort=effort,
        efforts=tuple(efforts),
        collection=content.building,
        nlist=content.nlist,
        rows=len(content.vectors),
        fields=fields_of(content.columns, content.vectors.shape[1]),
        fingerprint=content.fingerprint,
    )


def _measure(client: MilvusClient, name: str, effort: int, queries: Floats, exact: Floats) -> Effort:
    """One query at a time, each a call: what the way there costs is part of it."""
    found, milliseconds = np.full_like(exact, -np.inf), np.empty(len(queries))
    for at, query in enumerate(queries):
        started = time.perf_counter()
        [hits] = _search(client, name, query[None], exact.shape[1], effort)
        milliseconds[at] = (time.perf_counter() - started) * 1e3
        found[at, : len(hits)] = [hit["distance"] for hit in hits]
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return Effort(effort=effort, recall_at_10=recall_with_ties(found, exact), p50_ms=round(p50, 4), p99_ms=round(p99, 4))


def _search(client: MilvusClient, name: str, queries: Floats, k: int, effort: int) -> list[list[dict[str, Any]]]:
    parameters = {"metric_type": METRIC, "params": {"nprobe": effort}}
    found: list[list[dict[str, Any]]] = client.search(name, data=list(queries), limit=k, search_params=parameters)
    return found


class MilvusServed:
    """A finished collection, searched as it will be served; see ``offline.served``."""

    def __init__(self, folder: Path, config: MilvusConfig) -> None:
        described = load_description(folder)
        assert isinstance(described, MilvusIndex)  # noqa: S101 - the caller has looked
        self.described = described
        self._config = config
        self.d = int(described.fields[VECTOR].removeprefix("FLOAT_VECTOR(").removesuffix(")"))
        self.ntotal = described.rows

    def search(self, queries: Floats, k: int) -> Rows:
        """Rows int64[n, k] at the default effort; -1 where fewer were found."""
        rows = np.full((len(queries), min(k, self.ntotal)), -1, np.int64)
        with connected(self._config) as client:
            if not client.has_collection(self.described.collection):
                raise MilvusError(f"{self._config.uri}: {self.described.collection}: {_GONE}")
            for at, query in enumerate(queries):
                [hits] = _search(client, self.described.collection, query[None], rows.shape[1], self.described.default_effort)
                rows[at, : len(hits)] = [hit[ROW] for hit in hits]
        return rows

    def bring(self, layout: Layout) -> None:
        """Nothing: the vectors stay on the server."""


def name_collection(manifest: Manifest, config: MilvusConfig, building: str) -> None:
    """Give the collection ``building`` the name that the sealed snapshot says, load it and count it; may be repeated.

    Raises:
        MilvusError: it is not there under either name, or is not what the snapshot was sealed with.
    """
    index = manifest.index
    assert isinstance(index, MilvusIndex)  # noqa: S101 - the caller has looked
    with connected(config) as client:
        if not client.has_collection(index.collection):
            if not client.has_collection(building):
                raise MilvusError(f"{config.uri}: {building}, {index.collection}: {_GONE}")
            client.rename_collection(building, index.collection)
        client.load_collection(index.collection, timeout=config.timeout_seconds)
        found = _count(client, index.collection)
        if found != index.rows or _fingerprint(client, index, manifest.documents.columns) != index.fingerprint:
            raise MilvusError(
                f"{config.uri}: {index.collection}: {found} rows, {index.rows} were written, or they were changed since: nothing "
                "is published; remove the folder of the stage index, and run the whole recipe again, which writes it anew"
            )
        if config.alias is not None:
            _point(client, config.alias, index.collection)


def _fingerprint(client: MilvusClient, index: MilvusIndex, columns: Sequence[Column]) -> str:
    """Of the sample, as it is there now; empty where rows of it are missing."""
    rows, names = sampled_rows(index.rows), sampled_fields(columns)
    asked = {"filter": f"{ROW} in {rows.tolist()}", "output_fields": [*names, VECTOR], "consistency_level": "Strong"}
    found = sorted(client.query(index.collection, **asked), key=lambda row: int(row[ROW]))
    if len(found) != len(rows):
        return ""
    vectors = np.array([row[VECTOR] for row in found], np.float32)
    return fingerprint(index.rows, [[row[name] for name in names] for row in found], vectors)


def _point(client: MilvusClient, alias: str, collection: str) -> None:
    """Move the alias, which the server does at once, or make it."""
    known = {name for each in client.list_collections() for name in client.list_aliases(each)["aliases"]}
    if alias in known:
        client.alter_alias(collection, alias)
    else:
        client.create_alias(collection, alias)
