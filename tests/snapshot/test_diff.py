"""What changed between two snapshots; the oracle is a loop over dictionaries."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_snapshot import documents_table, make_oracle, make_snapshot

from snapshot.diff import compare, compare_documents
from snapshot.documents import document_field, write_documents
from snapshot.errors import HashMismatchError
from snapshot.layout import Layout

KINDS = {"text": "string", "number": "integer", "price": "number", "sold": "boolean"}
SCHEMA = pa.schema(
    [pa.field("id", pa.string()), *(document_field(name, kind, filterable=False) for name, kind in KINDS.items())]
)  # fmt: skip
FIELDS = st.fixed_dictionaries(
    {
        "text": st.sampled_from(["", "a", "b", None]),
        "number": st.sampled_from([0, 1, None]),
        "price": st.sampled_from([0.5, float("nan"), None]),
        "sold": st.sampled_from([True, False, None]),
    }
)
DOCUMENTS = st.dictionaries(st.sampled_from("abcdefgh"), FIELDS)


def table(documents: dict[str, dict[str, Any]]) -> pa.Table:
    names = [name for name in SCHEMA.names if name != "id"]
    return pa.table({"id": list(documents), **{name: [row[name] for row in documents.values()] for name in names}}, SCHEMA)


def as_text(fields: dict[str, Any]) -> str:
    """NaN is not equal to itself, but is written like itself."""
    return repr(sorted(fields.items()))


@given(before=DOCUMENTS, after=DOCUMENTS)
@settings(deadline=None, max_examples=80)
def test_documents_are_told_apart_by_their_fields(before: dict[str, Any], after: dict[str, Any]) -> None:
    found = compare_documents(table(before), table(after))
    changed = [one for one in after if one in before and as_text(after[one]) != as_text(before[one])]
    assert found.examples == {
        "added": [one for one in after if one not in before],
        "removed": [one for one in before if one not in after],
        "changed": changed,
    }
    assert (found.added, found.removed, found.changed) == tuple(map(len, found.examples.values()))
    assert (found.before, found.after, found.columns) == (len(before), len(after), {})


def test_columns_that_only_one_has_are_named_and_not_compared() -> None:
    before = table({"a": {"text": "x", "number": 1, "price": 1.0, "sold": True}})
    after = before.drop_columns(["sold"]).append_column(document_field("year", "integer", filterable=True), [[2020]])
    after = after.set_column(2, document_field("number", "string", filterable=False), [["1"]])
    found = compare_documents(before, after)
    assert (found.added, found.removed, found.changed) == (0, 0, 0)
    assert found.columns == {"number": "int64 became string", "sold": "removed (bool)", "year": "added (int64)"}


def test_many_rows_in_another_order() -> None:
    count = 200_000
    ids = np.char.add("doc-", np.arange(count).astype(str))
    shuffled = np.random.default_rng(0).permutation(count)
    before = pa.table({"id": pa.array(ids), "number": pa.array(np.arange(count))})
    numbers = shuffled.copy()
    numbers[:7] += 1
    after = pa.table({"id": pa.array(ids[shuffled]), "number": pa.array(numbers)})
    found = compare_documents(before, after)
    assert (found.added, found.removed, found.changed) == (0, 0, 7)
    assert found.examples["changed"] == [f"doc-{row}" for row in shuffled[:7]]


def edit_documents(layout: Layout) -> None:
    """Three changed, and ids 25 to 29 replaced by others."""
    texts = make_oracle(30).texts
    edited = documents_table([f"{text} new" if row < 3 else text for row, text in enumerate(texts)])
    ids = [f"doc-{row}" if row < 25 else f"new-{row}" for row in range(30)]
    write_documents(edited.set_column(0, edited.schema.field(0), [ids]), layout.documents)


def turn_hits(layout: Layout) -> None:
    rows = np.load(layout.golden_rows)
    rows[0] = rows[0][::-1]  # the same five
    rows[1, 0] = next(row for row in range(30) if row not in rows[1])
    np.save(layout.golden_rows, rows)
    queries = json.loads(layout.golden_queries.read_text())
    layout.golden_queries.write_text(json.dumps([*queries[:2], *(f"other {query}" for query in queries[2:])]))


def test_two_snapshots(tmp_path: Path) -> None:
    before = make_snapshot(tmp_path, rows=30)
    after = make_snapshot(tmp_path, rows=30, tamper=edit_documents)
    found = compare(before, after)
    assert (found.documents.added, found.documents.removed, found.documents.changed) == (5, 5, 3)
    assert found.documents.examples["changed"] == ["doc-0", "doc-1", "doc-2"]
    assert found.parts == {"space": True, "query_tower": True, "index": True, "documents": False, "golden": True}
    golden = np.load(before.golden_rows)
    assert found.overlap.mean == pytest.approx(1 - (golden >= 25).mean())
    assert (found.overlap.queries, found.overlap.k) == (16, 5)


def test_golden_hits_are_compared_as_sets_of_documents_of_common_queries(tmp_path: Path) -> None:
    before = make_snapshot(tmp_path, rows=30)
    after = make_snapshot(tmp_path, rows=30, tamper=turn_hits)
    found = compare(before, after)
    assert found.documents.examples == {"added": [], "removed": [], "changed": []}
    queries = json.loads(before.golden_queries.read_text())
    assert (found.overlap.queries, found.overlap.mean, found.overlap.least) == (2, pytest.approx(0.9), pytest.approx(0.8))
    assert found.overlap.changed_most == queries[1]


def test_without_common_queries_there_is_no_overlap(tmp_path: Path) -> None:
    def other(layout: Layout) -> None:
        layout.golden_queries.write_text(json.dumps([str(number) for number in range(16)]))

    found = compare(make_snapshot(tmp_path, rows=30), make_snapshot(tmp_path, rows=30, tamper=other))
    assert (found.overlap.queries, found.overlap.mean) == (0, None)


def test_what_was_not_sealed_is_not_compared(tmp_path: Path) -> None:
    before, after = make_snapshot(tmp_path, rows=30), make_snapshot(tmp_path, rows=30, seed=1)
    (part,) = after.documents.iterdir()
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(HashMismatchError, match="part-00000"):
        compare(before, after)
