"""What is FAISS's own: opening files, threads, the lifetime of selectors."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest
from make_snapshot import make_index, make_oracle, make_snapshot

from service.engines import open_engine
from service.engines.costs import Costs, Curve
from service.engines.faiss import FaissEngine
from snapshot.errors import IntegrityError, SpaceMismatchError
from snapshot.manifest import read_manifest
from snapshot.selection import Selection

FREE, DEAR = Curve((1.0,), (0.0,)), Curve((1.0,), (1.0,))
NEVER_EXACT = Costs(DEAR, FREE, FREE)
DOCUMENTS = make_oracle(rows=300).documents


def write(path: Path, index: faiss.Index) -> Path:
    faiss.write_index(index, str(path))
    return path


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivfpq"])
def test_an_opened_file_answers_as_the_index_that_was_written(tmp_path, kind):
    layout = make_snapshot(tmp_path, rows=300, kind=kind)
    engine = open_engine(read_manifest(layout.manifest), layout)
    oracle = make_oracle(rows=300)
    hits = engine.search(oracle.encode(["apple bread", "zinc"]), 5, 64)
    np.testing.assert_array_equal(hits.rows, oracle.rows(["apple bread", "zinc"], 5))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is mapped")
@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivfpq"])
def test_the_file_is_mapped_while_open_and_no_longer(tmp_path, kind):
    index, described = make_index(DOCUMENTS, kind)
    path = write(tmp_path / "index.faiss", index)
    engine = FaissEngine.open(path, described, 16)
    assert str(path) in Path("/proc/self/maps").read_text()
    engine.close()
    engine.close()
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_another_kind_than_the_manifest_says_is_refused(tmp_path):
    _, described = make_index(DOCUMENTS, "hnsw")
    path = write(tmp_path / "index.faiss", make_index(DOCUMENTS, "flat")[0])
    with pytest.raises(IntegrityError, match=r"IndexFlatIP.*'hnsw'"):
        FaissEngine.open(path, described, 16)


def test_another_metric_is_refused(tmp_path):
    _, described = make_index(DOCUMENTS, "hnsw")
    path = write(tmp_path / "index.faiss", faiss.IndexHNSWFlat(16, 16, faiss.METRIC_L2))
    with pytest.raises(IntegrityError, match="metric 1"):
        FaissEngine.open(path, described, 16)


def test_another_width_is_refused(tmp_path):
    index, described = make_index(DOCUMENTS, "flat")
    with pytest.raises(SpaceMismatchError, match=r"16 dimensions.* 32"):
        FaissEngine.open(write(tmp_path / "index.faiss", index), described, 32)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivfpq"])
@pytest.mark.parametrize("keep", [0, 3, 40, 2000])
def test_a_file_that_stops_short_is_refused(tmp_path, kind, keep):
    index, described = make_index(DOCUMENTS, kind)
    path = write(tmp_path / "index.faiss", index)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(IntegrityError, match=r"index\.faiss: not a readable FAISS index"):
        FaissEngine.open(path, described, 16)


def test_a_size_beyond_the_file_is_refused_before_memory_is_taken(tmp_path):
    index, described = make_index(DOCUMENTS, "ivfpq")
    path = write(tmp_path / "index.faiss", index)
    content = bytearray(path.read_bytes())
    centroids = content.index(np.int64(4 * 16).tobytes())  # the quantizer's 4 centroids of 16 floats
    content[centroids : centroids + 8] = np.int64(1 << 34).tobytes()
    path.write_bytes(content)
    before = faiss.get_deserialization_vector_byte_limit()
    with pytest.raises(IntegrityError, match="not a readable FAISS index"):
        FaissEngine.open(path, described, 16)
    assert faiss.get_deserialization_vector_byte_limit() == before


def test_every_calling_thread_gets_one_openmp_thread():
    engine = FaissEngine(*make_index(DOCUMENTS, "hnsw"))

    def search(row: int) -> tuple[int, int]:
        hits = engine.search(DOCUMENTS[row : row + 1], 1, 64)
        return int(hits.rows[0, 0]), faiss.omp_get_max_threads()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(search, range(300)))
    assert found == [(row, 1) for row in range(300)]


def test_selectors_outlive_the_call_that_reads_them():
    engine = FaissEngine(*make_index(DOCUMENTS, "ivfpq"), NEVER_EXACT)
    selection = Selection.of_mask(np.arange(300) >= 150)
    gc.collect()
    for _ in range(200):
        hits = engine.search(DOCUMENTS[:4], 5, 4, selection)
        assert (hits.rows >= 150).all()
