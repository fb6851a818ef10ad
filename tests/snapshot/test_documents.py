"""Documents come back as they were written, in any order of rows."""

import contextlib
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from snapshot.documents import columns_of, document_field, open_documents, write_documents
from snapshot.errors import CountMismatchError, ManifestError
from snapshot.filters import parse_filter

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        document_field("title", "string", filterable=False),
        document_field("year", "integer", filterable=True),
    ]
)
ROWS = [
    {"id": "a", "title": "Äpfel 🍏", "year": 2020},
    {"id": "b", "title": "", "year": None},
    {"id": "c", "title": "x", "year": 1999},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_documents(pa.Table.from_pylist(ROWS, schema=SCHEMA), tmp_path)
    return tmp_path


def test_rows_come_back_in_the_order_asked_for(folder: Path) -> None:
    documents = open_documents(folder)
    assert documents.count == 3
    assert documents.ids([2, 0, 2]) == ["c", "a", "c"]
    assert documents.fields(np.array([1, 0])) == [{"title": "", "year": None}, {"title": "Äpfel 🍏", "year": 2020}]
    assert documents.fields([0], ["year"]) == [{"year": 2020}]
    assert documents.fields([0, 1], []) == [{}, {}]
    assert documents.ids([]) == []
    assert documents.fields([]) == []


@pytest.mark.parametrize("count", [1, 10, 64, 65, 1000])
def test_few_rows_and_many_are_read_alike(folder: Path, count: int) -> None:
    documents = open_documents(folder)
    rows = np.random.default_rng(count).integers(0, 3, count)
    assert documents.ids(rows) == [ROWS[row]["id"] for row in rows]
    assert documents.fields(rows, ["year", "title"]) == [{"year": ROWS[row]["year"], "title": ROWS[row]["title"]} for row in rows]


@pytest.mark.parametrize("rows", [[3], [-1], [0, 1, -1], [*range(3)] * 40 + [3], [*range(3)] * 40 + [-1]])
def test_a_row_that_is_not_there_is_an_error(folder: Path, rows: list[int]) -> None:
    documents = open_documents(folder)
    with pytest.raises(IndexError):
        documents.ids(rows)
    with pytest.raises(IndexError):
        documents.fields(np.array(rows))


def test_which_columns_can_be_filtered_on_survives_the_file(folder: Path) -> None:
    documents = open_documents(folder)
    assert {column.name: (column.type, column.filterable) for column in documents.columns} == {
        "title": ("string", False),
        "year": ("integer", True),
    }
    assert documents.select(parse_filter({"year": {"$lt": 2000}}, documents.columns)).rows().tolist() == [2]


def test_several_files_are_one_table_in_the_order_of_their_names(folder: Path) -> None:
    (folder / "part-00001.arrow").write_bytes((folder / "part-00000.arrow").read_bytes())
    assert open_documents(folder).ids([3, 0]) == ["a", "a"]


def test_what_is_no_documents_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no \*\.arrow file"):
        open_documents(tmp_path)
    (tmp_path / "part-00000.arrow").write_bytes(b"ARROW1 but not really")
    with pytest.raises(ManifestError, match="not an Arrow IPC file"):
        open_documents(tmp_path)


def test_files_with_different_columns_are_refused(folder: Path) -> None:
    other = pa.Table.from_pylist([{"id": "z"}], schema=pa.schema([pa.field("id", pa.string())]))
    with pa.OSFile(str(folder / "part-00001.arrow"), "wb") as handle, pa.ipc.new_file(handle, other.schema) as writer:
        writer.write_table(other)
    with pytest.raises(CountMismatchError, match="different columns"):
        open_documents(folder)


@pytest.mark.parametrize(
    "fields",
    [[("x", pa.string())], [("id", pa.int64())], [("id", pa.string()), ("l", pa.list_(pa.int64()))]],
)
def test_schemas_that_no_snapshot_has_are_refused(fields: list[tuple[str, pa.DataType]]) -> None:
    with pytest.raises(ManifestError, match="documents:"):
        columns_of(pa.schema(fields))


def test_missing_ids_are_those_that_no_row_has(folder: Path) -> None:
    documents = open_documents(folder)
    assert documents.missing([]) == []
    assert documents.missing(["b", "y", "x", "a", "y"]) == ["y", "x"]


def ipc_file(table: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_what_would_grow_when_it_is_read_is_refused_before_it_does(tmp_path: Path, compression: str) -> None:
    """A second batch, so that the first is not all that is looked at."""
    ids = pa.chunked_array([["a"], ["b" * 64_000_000]], pa.string())
    content = ipc_file(pa.table({"id": ids}), compression)
    assert len(content) < 1_000_000
    (tmp_path / "part-00000.arrow").write_bytes(content)
    before = pa.total_allocated_bytes()
    peak = pa.default_memory_pool().max_memory()
    del ids
    with pytest.raises(ManifestError, match="is compressed"):
        open_documents(tmp_path)
    assert pa.total_allocated_bytes() <= before
    assert pa.default_memory_pool().max_memory() == peak


def test_a_batch_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    """Both blocks of the footer are made to name the second batch, which is nearly all of the file."""
    content = bytearray(ipc_file(pa.table({"id": pa.chunked_array([["a"], ["b" * 10_000]], pa.string())})))
    block = struct.Struct("<qi4xq")  # offset, bytes of header and of body: the second begins where the first ends
    starts = range(len(content) - 2_000, len(content) - 48)
    (at,) = (at for at in starts if 10_000 > sum(block.unpack_from(content, at)) == _offset(content, at + 24) > 300)
    content[at : at + 24] = content[at + 24 : at + 48]
    (tmp_path / "part-00000.arrow").write_bytes(content)
    with pytest.raises(ManifestError, match="batches claim 2"):
        open_documents(tmp_path)


def _offset(content: bytearray, at: int) -> int:
    found: int = struct.unpack_from("<q", content, at)[0]
    return found


def test_dictionaries_are_refused(tmp_path: Path) -> None:
    (tmp_path / "part-00000.arrow").write_bytes(ipc_file(pa.table({"id": pa.array(["a"]).dictionary_encode()})))
    with pytest.raises(ManifestError, match="first column"):
        open_documents(tmp_path)


def test_every_flip_of_a_byte_gives_an_error_of_ours_or_documents(folder: Path) -> None:
    """Whoever seals a hostile file gets its hash right, so parsers see it."""
    path = folder / "part-00000.arrow"
    intact = path.read_bytes()
    for place in range(0, len(intact), 3):
        path.write_bytes(intact[:place] + bytes([intact[place] ^ 0xFF]) + intact[place + 1 :])
        with contextlib.suppress(ManifestError, CountMismatchError):
            open_documents(folder)


@pytest.mark.parametrize("name", ["number", "id"])
def test_two_columns_of_one_name_are_refused(name: str) -> None:
    columns = {"id": ["a", "b"], "number": [1, 2]}
    table = pa.table(columns)
    with pytest.raises(ManifestError, match=f"two columns are called '{name}'"):
        columns_of(table.append_column(table.schema.field(name), table.column(name)).schema)
