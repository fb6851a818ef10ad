"""The typed manifest: what a snapshot is, measured when it was made.

Everything that must agree between training and serving and is not inside the ONNX graph is here.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from snapshot.errors import ManifestError, NewerSchemaError, UnsafePathError
from snapshot.files import read_small
from snapshot.layout import INDEX, part_name
from snapshot.paths import ID_PATTERN, check_paths, is_id

SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 16 << 20
MAX_FILES = 65_536
SPACE_KEY = "scalingnote.space"
"""Key of the ONNX metadata entry that carries the space fingerprint inside the graph file."""

MOST_EFFORT = 1 << 20
"""Lists that are looked into, or candidates that are kept, which takes memory for each of them."""
MOST_REFINED = 1000
"""Candidates that a search may compare for each hit."""
Lists = Annotated[int, Field(ge=1, le=1 << 24)]
"""Of an inverted file."""
CodeBytes = Annotated[int, Field(ge=1, le=1 << 20)]
"""Of one vector, compressed."""
RefineFactor = Annotated[int, Field(ge=1, le=MOST_REFINED)]
Links = Annotated[int, Field(ge=2, le=4096)]
"""Of a row in an HNSW graph."""
Candidates = Annotated[int, Field(ge=1, le=1 << 20)]
"""That HNSW keeps while it adds a row."""

ColumnType = Literal["string", "integer", "number", "boolean"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class TextSpec(_Frozen):
    """How raw text becomes the string that a tower's tokenizer sees; applied by ``snapshot.text.render``."""

    model_config = ConfigDict(strict=True)

    template: str = "{text}"
    """Field names in braces. Queries have one field, ``text``; documents have ``title`` and ``text``."""
    lowercase: bool = False
    add_special_tokens: bool = True
    max_tokens: Annotated[int, Field(ge=2, le=32768)] = 64
    """Longer inputs are truncated on the right to this many tokens, special tokens included."""


class Space(_Frozen):
    """The vector space that the document tower spans. Vectors of another space are refused by fingerprint."""

    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """sha256 over the document tower's weights and its text spec."""
    dim: Annotated[int, Field(ge=1, le=65536)]
    metric: Literal["cosine"] = "cosine"
    """Vectors are L2-normalised and compared by inner product."""


class QueryTower(_Frozen):
    """The ONNX graph that the service runs: (input_ids, attention_mask) int64[b, t] -> sentence_embedding float32[b, dim]."""

    text: TextSpec
    precision: Literal["fp32", "int8"]
    layers: Annotated[int, Field(ge=0, le=10_000)]
    parameters: Annotated[int, Field(ge=0, lt=2**50)]
    pad_token_id: Annotated[int, Field(ge=0, lt=2**31)] = 0
    reason: str = ""
    """Why this precision is served, with the gates' figures."""


class Effort(_Frozen):
    """One row of the effort table, measured at build with the student's queries on the builder's machine."""

    effort: Annotated[int, Field(ge=0, le=MOST_EFFORT)]
    """HNSW efSearch, IVF nprobe, 0 for a flat index."""
    recall_at_10: Annotated[float, Field(ge=0.0, le=1.0)]
    """Share of exact search's ten best that approximate search found."""
    p50_ms: Annotated[float, Field(ge=0.0)]
    p99_ms: Annotated[float, Field(ge=0.0)]


class _Index(_Frozen):
    reason: str
    """Why this kind was chosen."""
    default_effort: Annotated[int, Field(ge=0, le=MOST_EFFORT)]
    """The cheapest effort that reaches the recipe's recall target; one of ``efforts``."""
    efforts: Annotated[tuple[Effort, ...], Field(min_length=1, max_length=1024)]
    """Sorted by effort, ascending."""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of its files in the snapshot's folder ``index``, in the order of their rows."""
        return (INDEX,)

    @model_validator(mode="after")
    def _is_a_table(self) -> Self:
        named = [row.effort for row in self.efforts]
        if named != sorted(set(named)):
            raise ValueError("efforts must ascend")
        if self.default_effort not in named:
            raise ValueError(f"default_effort {self.default_effort} is not one of efforts")
        return self

    def sealed_as(self, _snapshot_id: str) -> Self:
        """What the manifest of that snapshot says of the index."""
        return self


class FlatIndex(_Index):
    """Exact search over every row."""

    kind: Literal["flat"] = "flat"


class HnswIndex(_Index):
    """faiss.IndexHNSWFlat; effort is efSearch."""

    kind: Literal["hnsw"] = "hnsw"
    m: Links
    ef_construction: Candidates


class IvfPqIndex(_Index):
    """faiss.IndexRefineFlat over IndexIVFPQ; effort is nprobe."""

    kind: Literal["ivfpq"] = "ivfpq"
    nlist: Lists
    pq_bytes: CodeBytes
    refine_factor: RefineFactor


class MilvusIndex(_Index):
    """A collection of a Milvus server, indexed IVF_FLAT by inner product; effort is nprobe.

    Which server is a setting of whoever opens it. Software before 2026-12 refuses snapshots that have it.
    """

    kind: Literal["milvus"] = "milvus"
    collection: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")]
    """Its name there, made of the snapshot's id; never written to again."""
    nlist: Annotated[int, Field(ge=1, le=65536)]
    rows: Annotated[int, Field(ge=1, lt=2**40)]
    fields: Annotated[dict[str, str], Field(max_length=2100)]
    """Type by name of field: the row, the id, a value and whether there is one for each filterable column, stored fields, the
    vector."""
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """sha256 over what ``snapshot.collection`` samples of its rows."""

    @property
    def files(self) -> tuple[str, ...]:
        return ()

    def sealed_as(self, snapshot_id: str) -> Self:
        """The same, in the collection that is named by the snapshot."""
        return self.model_copy(update={"collection": collection_name(snapshot_id)})


def collection_name(snapshot_id: str) -> str:
    """Name of a snapshot's collection: letters, digits and underscores only, as Milvus wants it."""
    return f"snapshot_{re.sub(r'[^A-Za-z0-9]', '_', snapshot_id)}"


class ShardedIndex(_Index):
    """Files ``index/part-00000.faiss`` and on, each a faiss.IndexRefine over a rotation and IVF; effort is nprobe.

    Rotation, lists' centroids and codebooks are the same in each. Software before 2026-12 refuses snapshots that have it.
    """

    kind: Literal["sharded"] = "sharded"
    parts: Annotated[tuple[Annotated[int, Field(ge=1, lt=2**31)], ...], Field(min_length=1, max_length=4096)]
    """Rows of each file; row i of a file is row i, plus those of the files before it, of the documents."""
    codes: Literal["opq", "rabitq"]
    """In the lists: product quantisation after a learned rotation, or RaBitQ after a random one."""
    code_bytes: CodeBytes
    """Of one vector in a list, its row number left out."""
    nlist: Lists
    refine: Literal["fp32", "fp16", "int8"]
    """How the whole vectors are kept, with which the best candidates are compared."""
    refine_factor: RefineFactor

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(part_name(number) for number in range(len(self.parts)))


FileIndex = FlatIndex | HnswIndex | IvfPqIndex | ShardedIndex
"""An index in files."""
Index = Annotated[FileIndex | MilvusIndex, Field(discriminator="kind")]


class Column(_Frozen):
    """A column of the documents, beside ``id``."""

    name: str
    type: ColumnType
    filterable: bool


class Documents(_Frozen):
    """Rows of the documents; row i is row i of the index."""

    count: Annotated[int, Field(ge=1, lt=2**40)]
    columns: Annotated[tuple[Column, ...], Field(max_length=1024)]

    @model_validator(mode="after")
    def _names_are_different(self) -> Self:
        names = Counter(("id", *(column.name for column in self.columns)))
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"two columns are called {twice[0][:120]!r}")
        return self


class Golden(_Frozen):
    """Probe queries with answers from another implementation (torch, brute force), and the bounds to meet."""

    queries: Annotated[int, Field(ge=1, le=100_000)]
    k: Annotated[int, Field(ge=1, le=10_000)]
    max_cosine_distance: Annotated[float, Field(ge=0.0)]
    """1 - cosine between the served and the torch vector may not exceed this for any probe."""
    min_recall: Annotated[float, Field(ge=0.0, le=1.0)]
    """Mean recall@k of the served search at ``default_effort`` against brute force may not fall below this."""


class Retention(_Frozen):
    """How much of the teacher's quality the served tower keeps, on held-out queries."""

    metric: str = "nDCG@10"
    split: str
    queries: Annotated[int, Field(ge=0, lt=2**40)]
    teacher: float
    served: float
    retained: float
    """served / teacher."""
    low: float
    high: float
    """95% paired bootstrap interval of ``retained``."""


class FileEntry(_Frozen):
    """Size and hash of one file."""

    bytes: Annotated[int, Field(ge=0, lt=2**50)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(_Frozen):
    """Written last: a folder without a manifest does not exist."""

    schema_version: Literal[1] = 1
    id: Annotated[str, Field(pattern=ID_PATTERN)]
    created_at: AwareDatetime
    """With its zone, which is UTC where we make it."""
    parent: str | None = None
    """Id of the snapshot that document vectors (an incremental snapshot) or index and documents (a new student) are from."""
    name: str
    """The recipe's name."""
    space: Space
    query_tower: QueryTower
    teacher_tower: Annotated[QueryTower | None, Field(exclude_if=lambda tower: tower is None)] = None
    """What the query tower was distilled from, as a second graph below ``teacher_tower/``: it answers nobody, the service
    compares a share of live queries with it. Left out where it did not come along; software before 2026-12 refuses snapshots
    that have it."""
    document_text: TextSpec
    index: Index
    documents: Documents
    golden: Golden
    retention: Retention | None = None
    """None where the data has no judged queries to measure it on. An incremental snapshot has that of its parent, whose towers
    it has."""
    build: dict[str, str] = {}
    """Versions of the libraries that made this."""
    files: Annotated[dict[str, FileEntry], Field(max_length=MAX_FILES)]
    """Path relative to the snapshot folder, with forward slashes; every file but the manifest and its signature."""

    @model_validator(mode="after")
    def _parts_are_all(self) -> Self:
        if isinstance(self.index, ShardedIndex) and sum(self.index.parts) != self.documents.count:
            raise ValueError(f"index.parts have {sum(self.index.parts)} rows, documents.count is {self.documents.count}")
        return self


def parse_manifest(text: bytes, where: Path) -> Manifest:
    """Parse a manifest; whatever it claims, nothing is allocated for it but what was parsed.

    Raises:
        NewerSchemaError: ``schema_version`` is above ``SCHEMA_VERSION``.
        UnsafePathError: its id or a path could mean something outside the snapshot's folder.
        ManifestError: anything else that does not fit; the message names the field.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise ManifestError(
            f"{where}: not a manifest ({len(text)} bytes, at most {MAX_MANIFEST_BYTES}); publish the snapshot again"
        )
    try:
        version = _Version.model_validate_json(text).schema_version
    except ValidationError as error:
        raise ManifestError(f"{where}: not a manifest ({_first(error)}); publish the snapshot again") from error
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{where}: schema version {version} is newer than {SCHEMA_VERSION}, the latest that this software reads; "
            "upgrade the service, or activate a snapshot made by the older version"
        )
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ManifestError(f"{where}: {_first(error)}; publish the snapshot again") from error
    if not is_id(manifest.id):
        raise UnsafePathError(
            f"{where}: id: {manifest.id!r} is the name of one of the registry's own files; do not use this snapshot"
        )
    check_paths(manifest.files, where)
    return manifest


def read_manifest(path: Path) -> Manifest:
    """Read and parse the manifest at ``path``; ManifestError where it is missing, or anything but a plain file."""
    return parse_manifest(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """The manifest's bytes, which are what is signed."""
    try:
        return read_small(path, MAX_MANIFEST_BYTES)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}); a folder without a manifest is no snapshot") from error


class _Version(BaseModel):
    schema_version: int


def _first(error: ValidationError) -> str:
    detail = error.errors()[0]
    place = ".".join(str(part) for part in detail["loc"]) or "document"
    return f"{place}: {detail['msg']}"
