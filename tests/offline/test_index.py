"""The stage on a toy tower, and the kinds against numpy."""

import faiss
import numpy as np
import pytest
from make_snapshot import make_oracle
from tiny_index import make_job

from offline.config import IndexConfig
from offline.efforts import open_index, search_as_served
from offline.errors import RecipeError
from offline.index import build, choose, load_description, run, sizes_of


@pytest.mark.parametrize(("kind", "rows"), [("flat", 400), ("hnsw", 400), ("ivfpq", 400), ("flat", 2), ("hnsw", 5), ("hnsw", 2)])
def test_the_index_finds_what_numpy_finds(kind, rows, tmp_path):
    oracle, queries, job = make_job(tmp_path, rows, kind=kind, recall_target=0.95)
    run(job)
    described = load_description(job.folder)
    assert described.kind == kind
    chosen = next(row for row in described.efforts if row.effort == described.default_effort)
    assert chosen.recall_at_10 >= 0.95
    index = open_index(job.folder / "index.faiss")
    assert (index.ntotal, index.d) == (rows, 16)
    found = search_as_served(index, described, oracle.encode(queries), 10)
    best = oracle.rows(queries, 10)
    assert np.mean([len(set(ours) & set(theirs)) / len(theirs) for ours, theirs in zip(found, best, strict=True)]) > 0.9


def test_row_i_of_the_index_is_row_i_of_the_vectors(tmp_path):
    oracle, _, job = make_job(tmp_path, 300, kind="hnsw")
    run(job)
    index = faiss.read_index(str(job.folder / "index.faiss"))
    assert np.array_equal(index.reconstruct_n(0, 300), oracle.documents)


def test_a_finished_index_of_a_killed_run_is_kept(tmp_path):
    _, _, job = make_job(tmp_path, 300, kind="hnsw")
    run(job)
    (job.folder / "index.json").unlink()
    before = (job.folder / "index.faiss").stat().st_ino
    run(job)
    assert (job.folder / "index.faiss").stat().st_ino == before
    assert load_description(job.folder).kind == "hnsw"


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (1, "flat"),
        (10_000, "flat"),
        (10_001, "hnsw"),
        (5_000_000, "hnsw"),
        (5_000_001, "ivfpq"),
        (20_000_000, "ivfpq"),
        (20_000_001, "sharded"),
    ],
)
def test_the_kind_follows_the_size(rows, kind):
    chosen, why = choose(IndexConfig(), rows, 20_000_000)
    assert chosen == kind
    assert str(rows) in why


def test_the_recipe_can_insist():
    assert choose(IndexConfig(kind="hnsw"), 5, 9) == ("hnsw", "hnsw: the recipe asks for it")


def test_ivfpq_on_too_few_rows_is_refused_with_the_remedy():
    with pytest.raises(RecipeError, match="255; use flat or hnsw"):
        choose(IndexConfig(kind="ivfpq"), 255, 300)


@pytest.mark.parametrize(("rows", "dim"), [(256, 16), (300, 7), (5000, 384), (256, 3)])
def test_ivfpq_fits_its_lists_and_codes_to_the_data(rows, dim):
    sizes = sizes_of("ivfpq", IndexConfig(), rows, dim)
    assert 1 <= sizes["nlist"] <= rows // 39
    assert dim % sizes["pq_bytes"] == 0


def test_the_same_vectors_give_the_same_ivfpq():
    vectors = make_oracle(300).documents
    sizes = sizes_of("ivfpq", IndexConfig(), *vectors.shape)
    one, other = (faiss.serialize_index(build("ivfpq", sizes, vectors)) for _ in range(2))
    assert np.array_equal(one, other)
