"""Appended indexes against numpy and against those built anew."""

import faiss
import numpy as np
import pytest

from offline.append import append, keeps_recall, obstacle, sizes_in
from offline.config import IndexConfig
from offline.errors import ParentError
from offline.index import Plan, build, sizes_of, write_index
from offline.parent import exact_storage
from snapshot.manifest import Effort, HnswIndex, IvfPqIndex

DIM, ROWS = 16, 600
RANDOM = np.random.default_rng(3)


def unit(rows):
    vectors = RANDOM.normal(size=(rows, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


OLD = unit(ROWS)


def described(kind, **changes):
    effort = Effort(effort=8, recall_at_10=0.99, p50_ms=1, p99_ms=1)
    common = {"reason": "", "default_effort": 8, "efforts": (effort,)}
    if kind == "hnsw":
        return HnswIndex(**common | {"m": 32, "ef_construction": 200} | changes)
    return IvfPqIndex(**common | {"nlist": 15, "pq_bytes": 4, "refine_factor": 8} | changes)


def plan(kind, rows=ROWS, **changes):
    return Plan(kind, sizes_of(kind, IndexConfig(), rows, DIM) | changes, "because")


def write(kind, folder):
    write_index(build(kind, plan(kind).sizes, OLD), folder / "old.faiss")
    return folder / "old.faiss"


def assemble(carried, fresh):
    """Vectors of the new rows."""
    vectors = np.empty((len(carried), DIM), np.float32)
    vectors[carried >= 0] = OLD[carried[carried >= 0]]
    vectors[carried < 0] = fresh
    return vectors


def search(index, kind, queries, k):
    if kind == "hnsw":
        return index.search(queries, k, params=faiss.SearchParametersHNSW(efSearch=256))[1]
    base = faiss.SearchParametersIVF(nprobe=15)
    return index.search(queries, k, params=faiss.IndexRefineSearchParameters(k_factor=64, base_index_params=base))[1]


CASES = {
    "grown": np.concatenate([np.arange(ROWS), np.full(50, -1)]),
    "changed and dropped": np.concatenate([np.arange(100), [-1, -1], np.arange(120, ROWS)]),
    "moved": np.arange(ROWS)[::-1].copy(),
    "equal texts": np.concatenate([np.arange(ROWS), [5, 5, -1, 7]]),
    "only dropped": np.arange(0, ROWS, 2),
}


@pytest.mark.parametrize(("kind", "case"), [("hnsw", "grown"), *(("ivfpq", case) for case in CASES)])
def test_row_i_of_an_appended_index_is_row_i_of_the_vectors(kind, case, tmp_path):
    carried = CASES[case]
    vectors = assemble(carried, unit(int(np.sum(carried < 0))))
    write_index(append(write(kind, tmp_path), kind, carried, vectors), tmp_path / "new.faiss")
    index = faiss.read_index(str(tmp_path / "new.faiss"), faiss.IO_FLAG_MMAP_IFC)
    assert index.ntotal == len(carried)
    assert np.array_equal(exact_storage(index, tmp_path).reconstruct_n(0, len(carried)), vectors)
    queries = unit(40)
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    found = search(index, kind, queries, 10)
    assert np.mean([len(set(ours) & set(best)) / 10 for ours, best in zip(found, exact, strict=True)]) > 0.97
    itself = search(index, kind, vectors, 1)[:, 0]
    assert np.allclose(np.einsum("nd,nd->n", vectors[itself], vectors), 1, atol=1e-5), "every row is found by its own vector"


def test_codes_of_rows_that_stay_are_not_made_again(tmp_path):
    carried = CASES["changed and dropped"]
    path = write("ivfpq", tmp_path)
    index = append(path, "ivfpq", carried, assemble(carried, unit(2)))
    before, after = (codes_of(one) for one in (faiss.read_index(str(path)), index))
    assert all(after[row] == before[old] for row, old in enumerate(carried) if old >= 0)
    assert set(after) == set(range(len(carried)))


def codes_of(index):
    """The list and the code of each row."""
    base = faiss.downcast_index(index.base_index)
    found = {}
    for number in range(base.nlist):
        size = base.invlists.list_size(number)
        if size:
            codes = faiss.rev_swig_ptr(base.invlists.get_codes(number), size * base.code_size).reshape(size, -1)
            ids = faiss.rev_swig_ptr(base.invlists.get_ids(number), size)
            assert not set(ids.tolist()) & set(found)
            found |= {int(row): (number, bytes(code)) for row, code in zip(ids, codes, strict=True)}
    return found


GROWN, MOVED = CASES["grown"], CASES["moved"]


@pytest.mark.parametrize(
    ("before", "planned", "carried", "why"),
    [
        (described("hnsw"), plan("hnsw"), GROWN, None),
        (described("hnsw"), plan("hnsw"), np.arange(ROWS), None),
        (described("hnsw"), plan("hnsw"), MOVED, "cannot follow"),
        (described("hnsw"), plan("hnsw"), np.arange(ROWS - 1), "cannot follow"),
        (described("hnsw"), plan("hnsw"), CASES["changed and dropped"], "cannot follow"),
        (described("hnsw", m=16), plan("hnsw"), GROWN, "m is 16 in the parent's and 32 here"),
        (described("hnsw"), plan("flat"), GROWN, "as fast as it is read"),
        (described("hnsw"), plan("ivfpq"), GROWN, "of kind hnsw"),
        (described("ivfpq"), plan("ivfpq"), MOVED, None),
        (described("ivfpq"), plan("ivfpq", pq_bytes=2), MOVED, "pq_bytes is 4"),
        (described("ivfpq", nlist=4), plan("ivfpq"), MOVED, "has 4 lists where 15 are due"),
        (described("ivfpq"), plan("ivfpq"), np.full(700, -1), "no row is carried over"),
    ],
)
def test_what_cannot_be_appended_to_says_why(before, planned, carried, why):
    found = obstacle(before, planned, carried, ROWS)
    assert (found is None) if why is None else (why in found)


@pytest.mark.parametrize(
    ("now", "before", "target", "kept"),
    [(0.99, 0.99, 0.98, True), (0.97, 0.99, 0.98, False), (0.9, 0.9, 0.98, True), (0.8, 0.9, 0.98, False)],
)
def test_an_appended_index_must_find_as_much_at_the_effort_of_the_parent(now, before, target, kept):
    parent = described("ivfpq", efforts=(Effort(effort=8, recall_at_10=before, p50_ms=1, p99_ms=1),))
    after = described(
        "ivfpq",
        default_effort=16,
        efforts=(Effort(effort=8, recall_at_10=now, p50_ms=1, p99_ms=1), Effort(effort=16, recall_at_10=1, p50_ms=2, p99_ms=2)),
    )
    assert keeps_recall(parent, after, target) == kept


def test_sizes_are_those_of_a_plan():
    assert sizes_in(described("hnsw")) == {"m": 32, "ef_construction": 200}


def test_an_index_of_compressed_vectors_alone_is_refused(tmp_path):
    index = faiss.IndexPQ(DIM, 4, 4)
    with pytest.raises(ParentError, match="IndexPQ keeps compressed vectors"):
        exact_storage(index, tmp_path / "index.faiss")


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivfpq"])
def test_every_kind_gives_its_vectors_back_byte_for_byte(kind, tmp_path):
    write_index(build(kind, plan(kind).sizes, OLD), tmp_path / "index.faiss")
    index = faiss.read_index(str(tmp_path / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
    assert exact_storage(index, tmp_path).reconstruct_n(0, ROWS).tobytes() == OLD.tobytes()
