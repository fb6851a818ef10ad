"""Several files against one: the same answers, whatever is filtered away, and by name what does not belong together."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest
from make_shards import make_shards

from offline.sharded import TRAINED
from service.engines.base import NO_ROW
from service.engines.costs import Costs, Curve
from service.engines.sharded import ShardedEngine
from snapshot.errors import IntegrityError, SpaceMismatchError
from snapshot.manifest import ShardedIndex
from snapshot.selection import Selection

ROWS, DIM, K, QUERIES, PART = 2_400, 32, 10, 30, 400
FREE, DEAR = Curve((1.0,), (0.0,)), Curve((1.0,), (1.0,))
ALWAYS_EXACT, NEVER_EXACT = Costs(FREE, DEAR, DEAR), Costs(DEAR, FREE, FREE)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


RANDOM = np.random.default_rng(5)
CENTRES = RANDOM.normal(size=(60, DIM))
DOCUMENTS = unit(CENTRES[RANDOM.integers(60, size=ROWS)] + 0.6 * RANDOM.normal(size=(ROWS, DIM)))
ASKED = unit(CENTRES[RANDOM.integers(60, size=QUERIES)] + 0.6 * RANDOM.normal(size=(QUERIES, DIM)))
SCORES = ASKED.astype(np.float64) @ DOCUMENTS.T


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.faiss"))


def opened(folder: Path, described: ShardedIndex, costs: Costs | None = NEVER_EXACT, threads: int = 2) -> ShardedEngine:
    return ShardedEngine.open(files_of(folder), described, DIM, threads, costs)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> tuple[Path, ShardedIndex]:
    folder = tmp_path_factory.mktemp("many") / "index"
    return folder, make_shards(DOCUMENTS, folder, part_rows=PART)


@pytest.fixture(scope="module")
def one(tmp_path_factory, many) -> tuple[Path, ShardedIndex]:
    folder = tmp_path_factory.mktemp("one") / "index"
    folder.mkdir()
    shutil.copy(many[0] / TRAINED, folder)
    return folder, make_shards(DOCUMENTS, folder, part_rows=8 * ROWS)


def recall(rows, scores=SCORES):
    best = np.argsort(-scores, axis=1)[:, :K]
    return np.mean([len(set(ours) & set(theirs)) / K for ours, theirs in zip(rows.tolist(), best.tolist(), strict=True)])


@pytest.mark.parametrize("effort", [1, 4, 32, 10_000])
@pytest.mark.parametrize("threads", [1, 3])
def test_several_files_give_what_one_file_gives(many, one, effort, threads):
    ours = opened(*many, threads=threads).search(ASKED, K, effort)
    theirs = opened(*one, threads=1).search(ASKED, K, effort)
    np.testing.assert_array_equal(ours.rows, theirs.rows)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-6)
    assert len(many[1].parts) == 6
    assert len(one[1].parts) == 1


def test_one_file_gives_what_faiss_gives(one):
    index = faiss.read_index(str(files_of(one[0])[0]))
    probes = faiss.SearchParametersPreTransform(index_params=faiss.SearchParametersIVF(nprobe=4))
    parameters = faiss.IndexRefineSearchParameters(k_factor=one[1].refine_factor, base_index_params=probes)
    scores, rows = index.search(ASKED, K, params=parameters)
    hits = opened(*one).search(ASKED, K, 4)
    np.testing.assert_array_equal(hits.rows, rows)
    np.testing.assert_allclose(hits.scores, scores, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3])
def test_few_hits_are_the_first_of_ten(many, k):
    engine = opened(*many)
    np.testing.assert_array_equal(engine.search(ASKED, k, 16).rows, engine.search(ASKED, K, 16).rows[:, :k])


@pytest.mark.parametrize(
    ("codes", "refine", "off"),
    [("opq", "fp16", 3e-4), ("rabitq", "fp32", 1e-6), ("rabitq", "fp16", 3e-4), ("rabitq", "int8", 1e-2)],
)
def test_every_form_of_code_and_vector_finds_the_best(codes, refine, off, tmp_path):
    engine = opened(tmp_path / "index", make_shards(DOCUMENTS, tmp_path / "index", part_rows=PART, codes=codes, refine=refine))
    for hits in (engine.search(ASKED, K, 64), engine.exact(ASKED, K)):
        assert recall(hits.rows) >= 0.95
        np.testing.assert_allclose(hits.scores, np.take_along_axis(SCORES, hits.rows, axis=1), atol=off)
    found = [recall(engine.search(ASKED, K, effort).rows) for effort in (1, 4, 64)]
    assert found[0] < found[1] <= found[2]


IN_ONE_FILE = (np.arange(ROWS) >= 2 * PART) & (np.arange(ROWS) < 3 * PART)
MASKS = {
    "half": RANDOM.random(ROWS) < 0.5,
    "one in a hundred": RANDOM.random(ROWS) < 0.01,
    "of one file": IN_ONE_FILE,
    "of all but one file": ~IN_ONE_FILE,
    "the last row": np.arange(ROWS) == ROWS - 1,
    "a row of each file": np.arange(ROWS) % PART == 7,
    "none": np.zeros(ROWS, np.bool_),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("costs", [ALWAYS_EXACT, NEVER_EXACT, None], ids=["exact", "approximate", "measured"])
def test_filters_against_exact_search(many, name, costs):
    mask = MASKS[name]
    engine, selection, there = opened(*many, costs=costs), Selection.of_mask(mask), min(K, int(mask.sum()))
    eligible = np.where(mask, SCORES, -np.inf)
    best = np.argsort(-eligible, axis=1)[:, :there]
    np.testing.assert_array_equal(engine.exact(ASKED, K, selection).rows[:, :there], best)
    hits = engine.search(ASKED, K, 64, selection)
    assert (hits.rows[:, there:] == NO_ROW).all()
    assert np.isneginf(hits.scores[:, there:]).all()
    assert mask[hits.rows[:, :there]].all()
    if there == K:
        assert recall(hits.rows, eligible) >= 0.95


def test_files_whose_rows_do_not_begin_at_a_whole_byte(tmp_path):
    folder = tmp_path / "index"
    described = make_shards(DOCUMENTS[:999], folder, part_rows=504)
    assert described.parts == (504, 495)
    tail = tmp_path / "tail"
    tail.mkdir()
    for number, name in ((1, "part-00000.faiss"), (0, "part-00001.faiss")):  # the odd one first
        shutil.copy(files_of(folder)[number], tail / name)
    engine = opened(tail, described.model_copy(update={"parts": (495, 504)}))
    turned = np.concatenate([DOCUMENTS[504:999], DOCUMENTS[:504]])
    mask = np.arange(999) % 3 == 1
    best = np.argsort(-np.where(mask, ASKED.astype(np.float64) @ turned.T, -np.inf), axis=1)[:, :K]
    np.testing.assert_array_equal(engine.exact(ASKED, K, Selection.of_mask(mask)).rows, best)
    assert recall(engine.search(ASKED, K, 64, Selection.of_mask(mask)).rows, np.where(mask, ASKED @ turned.T, -np.inf)) > 0.95


def test_more_than_there_is_gives_every_row_once(many):
    rows = opened(*many).search(ASKED[:2], ROWS + 5, 1).rows
    np.testing.assert_array_equal(np.sort(rows[:, :ROWS], axis=1), np.tile(np.arange(ROWS), (2, 1)))
    assert (rows[:, ROWS:] == NO_ROW).all()


def test_searches_from_several_threads_do_not_mix(many):
    engine, half, other = opened(*many), Selection.of_mask(MASKS["half"]), Selection.of_mask(~MASKS["half"])
    alone = {id(selection): engine.search(ASKED, K, 8, selection).rows for selection in (half, other)}
    with ThreadPoolExecutor(4) as pool:
        wanted = [half, other] * 10
        for selection, hits in zip(wanted, pool.map(lambda each: engine.search(ASKED, K, 8, each), wanted), strict=True):
            np.testing.assert_array_equal(hits.rows, alone[id(selection)])


def test_closing_twice_is_closing_once(many):
    engine = opened(*many)
    engine.close()
    engine.close()


def test_files_that_do_not_belong_together_are_refused_by_name(many, tmp_path):
    folder, described = many
    other = make_shards(DOCUMENTS, tmp_path / "other", part_rows=PART, points_per_list=30, lists=described.nlist, pq_bytes=4)
    mixed = [*files_of(folder)[:-1], files_of(tmp_path / "other")[-1]]
    assert (other.parts, other.nlist) == (described.parts, described.nlist)
    with pytest.raises(IntegrityError, match=r"part-00005\.faiss: list 0 has another centroid"):
        ShardedEngine.open(mixed, described, DIM)
    with pytest.raises(IntegrityError, match=r"part-00000\.faiss: has 400 rows, the manifest says 399"):
        opened(folder, described.model_copy(update={"parts": (399, *described.parts[1:])}))
    with pytest.raises(IntegrityError, match="lists, the manifest says 7"):
        opened(folder, described.model_copy(update={"nlist": 7}))
    with pytest.raises(IntegrityError, match=r"IndexIVFPQ IndexFlatIP with metric 0, the manifest says .*RaBitQ"):
        opened(folder, described.model_copy(update={"codes": "rabitq"}))
    with pytest.raises(SpaceMismatchError, match="vectors of 32 dimensions, the manifest's space has 16"):
        ShardedEngine.open(files_of(folder), described, 16)


def test_a_file_of_another_kind_or_cut_short_is_refused(many, tmp_path):
    folder, described = many
    shutil.copytree(folder, tmp_path / "index")
    path = files_of(tmp_path / "index")[2]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match=r"part-00002\.faiss: not a readable FAISS index"):
        opened(tmp_path / "index", described)
    flat = faiss.IndexFlatIP(DIM)
    flat.add(DOCUMENTS[:PART])
    faiss.write_index(flat, str(path))
    with pytest.raises(IntegrityError, match=r"part-00002\.faiss: holds IndexFlat"):
        opened(tmp_path / "index", described)
