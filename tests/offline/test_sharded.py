"""Files built out of shards: resumed after a kill, the same as the service reads them, and refused where they cannot be."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from make_shards import make_shards
from tiny_index import make_job

from offline import sharded
from offline.efforts import open_described, search_as_served
from offline.encoded import Vectors
from offline.errors import ParentError, RecipeError
from offline.index import load_description, run
from offline.parent import Parent
from offline.ranking import exact_top_k
from offline.sharded import TRAINED, build, sizes_of
from offline.sharded_config import ShardedConfig
from service.engines.sharded import ShardedEngine
from snapshot.layout import Layout

ROWS, DIM = 700, 16
CONFIG = ShardedConfig(part_rows=240, codes="rabitq", refine="fp32")


@pytest.fixture(autouse=True)
def one_thread():
    faiss.omp_set_num_threads(1)  # several wait for each other where other work runs


@pytest.fixture
def vectors(tmp_path):
    """Files of other sizes than the parts, one of them empty."""
    random = np.random.default_rng(3)
    whole = random.normal(size=(ROWS, DIM)).astype(np.float32)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    (tmp_path / "shards").mkdir()
    for number, (begin, end) in enumerate([(0, 100), (100, 100), (100, 390), (390, ROWS)]):
        np.save(tmp_path / "shards" / f"{number:05}.npy", whole[begin:end])
    return Vectors(tmp_path / "shards"), whole


def test_blocks_and_picks_are_the_rows_wherever_they_lie(vectors):
    ours, whole = vectors
    assert (ours.shape, len(ours)) == (whole.shape, ROWS)
    for begin, end, rows in ((0, None, 64), (95, 105, 3), (390, 400, 100), (699, 700, 5)):
        starts, blocks = zip(*ours.blocks(begin, end, rows), strict=True)
        assert list(starts) == list(range(begin, end or ROWS, rows))
        assert np.array_equal(np.concatenate(blocks), whole[begin:end])
    picks = np.array([699, 0, 99, 100, 389, 390, 0])
    assert np.array_equal(ours.read(picks), whole[picks])
    assert np.array_equal(ours.take(picks), whole[picks])


def test_exact_search_block_by_block_is_that_of_the_whole(vectors, monkeypatch):
    ours, whole = vectors
    monkeypatch.setattr(ours, "blocks", lambda: Vectors.blocks(ours, rows=64))
    for k in (1, 10, ROWS + 3):
        scores, rows = exact_top_k(whole[:5], ours, k)
        best, there = exact_top_k(whole[:5], whole, k)
        assert np.array_equal(rows, there)
        np.testing.assert_allclose(scores, best, atol=1e-6)


def test_every_row_is_in_its_place(vectors, tmp_path):
    ours, whole = vectors
    sizes = sizes_of(CONFIG, 8, *ours.shape)
    assert sizes["parts"] == (240, 240, 220)
    build(CONFIG, sizes, ours, tmp_path / "index")
    stored = []
    for path in sorted((tmp_path / "index").glob("part-*")):
        index = faiss.read_index(str(path))
        stored.append(faiss.downcast_index(index.refine_index).reconstruct_n(0, index.ntotal))
    assert np.array_equal(np.concatenate(stored), whole)


def test_a_killed_build_repeats_one_file(vectors, tmp_path, monkeypatch):
    ours, _ = vectors
    folder, sizes = tmp_path / "index", sizes_of(CONFIG, 8, *ours.shape)
    filled = sharded._filled

    def dies(trained, vectors, begin, end):
        if begin == 480:
            raise KeyboardInterrupt
        return filled(trained, vectors, begin, end)

    monkeypatch.setattr(sharded, "_filled", dies)
    with pytest.raises(KeyboardInterrupt):
        build(CONFIG, sizes, ours, folder)
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert sorted(before) == ["part-00000.faiss", "part-00001.faiss", TRAINED]
    monkeypatch.setattr(sharded, "_filled", filled)
    build(CONFIG, sizes, ours, folder)
    assert {path.name: path.stat().st_ino for path in folder.iterdir() if path.name in before} == before
    build(CONFIG, sizes, ours, tmp_path / "other")
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


@pytest.mark.parametrize("codes", ["opq", "rabitq"])
def test_what_is_measured_here_is_what_the_service_answers(codes, vectors, tmp_path):
    _, whole = vectors
    described = make_shards(whole, tmp_path / "index", codes=codes)
    ours = open_described(tmp_path / "index", described)
    theirs = ShardedEngine.open(sorted((tmp_path / "index").glob("part-*")), described, DIM)
    assert (ours.ntotal, ours.d) == (theirs.count, theirs.dim)
    for effort in (1, 3, described.nlist):
        scores, rows = ours.search(whole[:50], 10, effort)
        enough = (rows >= 0).all(axis=1)  # where there are fewer, the service goes on
        hits = theirs.search(whole[:50], 10, effort)
        assert np.array_equal(hits.rows[enough], rows[enough])
        np.testing.assert_allclose(hits.scores[enough], scores[enough], atol=1e-6)


def test_the_stage_builds_files_and_measures_them(tmp_path):
    oracle, queries, job = make_job(tmp_path, 600, kind="sharded", recall_target=0.95)
    recipe = job.recipe.model_copy(update={"sharded": ShardedConfig(part_rows=240, codes="opq", refine="fp32")})
    job = type(job)(recipe, job.source, job.folder, job.inputs)
    figures = run(job)
    described = load_description(job.folder)
    assert (described.kind, described.parts, described.codes) == ("sharded", (240, 240, 120), "opq")
    assert figures["recall@10"] >= 0.95
    found = search_as_served(open_described(job.folder, described), described, oracle.encode(queries), 10)
    best = oracle.rows(queries, 10)
    assert np.mean([len(set(ours) & set(theirs)) / 10 for ours, theirs in zip(found, best, strict=True)]) > 0.9
    before = (job.folder / "part-00001.faiss").stat().st_ino
    run(job)
    assert (job.folder / "part-00001.faiss").stat().st_ino == before


@pytest.mark.parametrize("refine", ["fp32", "fp16"])
def test_a_parent_gives_back_whole_vectors_only(refine, vectors, tmp_path):
    _, whole = vectors
    layout = Layout(tmp_path / "parent")
    described = make_shards(whole, layout.index.parent, codes="rabitq", refine=refine)
    parent = Parent(layout)
    parent.__dict__["manifest"] = type("Manifest", (), {"index": described, "id": "it"})
    rows = np.array([699, 0, 240, 239])
    if refine == "fp32":
        assert np.array_equal(parent.vectors(rows), whole[rows])
    else:
        with pytest.raises(ParentError, match=r'keeps vectors as fp16.*sharded.refine = "fp32"'):
            parent.vectors(rows)


def test_what_cannot_be_built_is_refused_with_the_remedy():
    with pytest.raises(RecipeError, match="needs 256 documents or more to train on, there are 255; use flat or hnsw"):
        sizes_of(ShardedConfig(codes="opq"), 8, 255, 16)
    with pytest.raises(RecipeError, match="pq_bytes: 5 does not divide the vectors' width, 16"):
        sizes_of(ShardedConfig(codes="opq", pq_bytes=5), 8, 1000, 16)


def test_lists_are_as_many_as_their_points_can_place():
    assert sizes_of(ShardedConfig(), 8, 5_000_000, 384) | {"parts": None} == {
        "parts": None,
        "codes": "rabitq",
        "code_bytes": 116,
        "nlist": 8944,
        "refine": "fp16",
        "refine_factor": 8,
    }
    assert sizes_of(ShardedConfig(codes="opq"), 8, 5_000_000, 384)["code_bytes"] == 96
    assert sizes_of(ShardedConfig(), 8, 400, 16)["nlist"] == 10
    assert sizes_of(ShardedConfig(lists=7), 8, 5_000_000, 384)["nlist"] == 7
    assert len(sizes_of(ShardedConfig(), 8, 100_000_000, 384)["parts"]) == 100
    assert sizes_of(ShardedConfig(), 8, 1, 384)["parts"] == (1,)
