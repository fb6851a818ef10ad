"""Where recall is lost on toy snapshots, with numpy as the oracle of every exact list and of the whole loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from make_snapshot import KINDS, WORDS, Oracle, make_oracle, make_snapshot, teacher_table, token_ids, write_index

from service.errors import InvalidRequestError
from service.explain.chain import Chain, Efforts, follow, open_teacher
from service.explain.losses import Step, losses, whole_loss
from service.generation import Generation, GenerationOptions, open_generation
from service.stages import Search
from snapshot.filters import parse_filter
from snapshot.layout import Layout
from snapshot.manifest import Effort, ShardedIndex
from snapshot.seal import Draft
from snapshot.selection import Selection

ROWS, DIM, K = 600, 16, 10
QUERIES = [" ".join(WORDS[i : i + 3]) for i in range(0, 45, 3)]
NOISE = 0.7


def least_effort(draft: Draft) -> Draft:
    """The table begins with effort 1, and the default is that: golden answers must not be expected of it."""
    first = Effort(effort=1, recall_at_10=0.0, p50_ms=0.1, p99_ms=0.2)
    rows = (first, *(row for row in draft.index.efforts if row.effort > 1))
    index = draft.index.model_copy(update={"efforts": rows, "default_effort": 1})
    return replace(draft, index=index, golden=draft.golden.model_copy(update={"min_recall": 0.0}))


def thin_graph(layout: Layout) -> None:
    """An HNSW graph with few neighbours a row: at effort 1 it loses much."""
    oracle = make_oracle(ROWS, DIM)
    index = faiss.IndexHNSWFlat(DIM, 5, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 16
    index.add(oracle.documents)
    write_index(layout, index)


def coarse_codes(layout: Layout) -> None:
    """Codes of 16 bits, and hardly more candidates than hits: all lists together lose much."""
    oracle = make_oracle(ROWS, DIM)
    base = faiss.IndexIVFPQ(faiss.IndexFlatIP(DIM), DIM, 9, 4, 4, faiss.METRIC_INNER_PRODUCT)
    base.cp.min_points_per_centroid = base.pq.cp.min_points_per_centroid = 1
    index = faiss.IndexRefineFlat(base)
    index.train(oracle.documents)
    index.add(oracle.documents)
    write_index(layout, index)


def coarse(draft: Draft) -> Draft:
    return least_effort(replace(draft, index=draft.index.model_copy(update={"refine_factor": 1, "pq_bytes": 2})))


@contextmanager
def opened(folder: Path, kind: str, **options: object) -> Iterator[Generation]:
    layout = make_snapshot(folder, ROWS, DIM, kind, teacher=NOISE, **options)
    generation = open_generation(layout, GenerationOptions(), lambda _: None)
    yield generation
    generation.close()


@pytest.fixture(scope="module")
def hnsw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generation]:
    with opened(tmp_path_factory.mktemp("hnsw"), "hnsw", tamper=thin_graph, revise=least_effort) as generation:
        yield generation


@pytest.fixture(scope="module")
def ivfpq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generation]:
    with opened(tmp_path_factory.mktemp("ivfpq"), "ivfpq", tamper=coarse_codes, revise=coarse) as generation:
        yield generation


def explained(generation: Generation, query: str, efforts: Efforts, filter_: dict[str, object] | None = None) -> Chain:
    teacher = open_teacher(generation)
    assert teacher is not None
    chain = follow(generation, teacher, Search(query, K, filter=filter_), efforts)
    teacher.close()
    return chain


def best_rows(oracle: Oracle, vector: np.ndarray, eligible: np.ndarray) -> list[int]:
    scores = np.where(eligible, vector @ oracle.documents.T, -np.inf)
    return [int(row) for row in np.argsort(-scores, kind="stable")[:K]]


def teacher_vector(oracle: Oracle, query: str) -> np.ndarray:
    summed = teacher_table(oracle.table, NOISE)[token_ids(query)].sum(axis=0)
    return summed / np.linalg.norm(summed)


Case = tuple[dict[str, object] | None, Callable[[int], bool]]
FILTERS: list[Case] = [
    (None, lambda row: True),
    ({"kind": "tool"}, lambda row: KINDS[row % 3] == "tool"),
    ({"number": {"$lt": 40}}, lambda row: row < 40),
]


@pytest.mark.parametrize("name", ["hnsw", "ivfpq"])
@pytest.mark.parametrize("case", FILTERS, ids=["no filter", "a third", "forty rows"])
def test_the_losses_by_step_are_the_whole_loss_that_numpy_finds(name: str, case: Case, request: pytest.FixtureRequest) -> None:
    generation: Generation = request.getfixturevalue(name)
    filter_, keeps = case
    oracle, eligible = make_oracle(ROWS, DIM), np.array([keeps(row) for row in range(ROWS)])
    whole = 0.0
    for query in QUERIES:
        chain = explained(generation, query, Efforts(1, 1), filter_)
        truth = best_rows(oracle, teacher_vector(oracle, query), eligible)
        assert chain.stands[0].rows == tuple(truth)
        assert chain.stands[1].rows == tuple(best_rows(oracle, oracle.encode([query])[0], eligible))
        served = generation.engine.search(generation.encoder.encode([query]), K, 1, _selection(generation, filter_)).rows[0]
        assert (chain.stands[-1].step == "filter") is (filter_ is not None)
        assert chain.stands[-1].rows == tuple(int(row) for row in served)
        lost = 1 - len(set(truth) & set(served.tolist())) / K
        assert sum(loss.points for loss in losses(chain.stands)) == pytest.approx(lost)
        assert whole_loss(chain.stands) == pytest.approx(lost)
        assert all(eligible[row] for stand in chain.stands for row in stand.rows)
        whole += lost
    assert whole > 0


def _selection(generation: Generation, filter_: dict[str, object] | None) -> Selection | None:
    return None if filter_ is None else generation.documents.select(parse_filter(filter_, generation.documents.columns))


def points(generation: Generation, efforts: Efforts, filter_: dict[str, object] | None = None) -> dict[Step, float]:
    """By step, over all queries."""
    summed: dict[Step, float] = {}
    for query in QUERIES:
        for loss in losses(explained(generation, query, efforts, filter_).stands):
            summed[loss.step] = summed.get(loss.step, 0.0) + loss.points
    return summed


def test_a_graph_searched_with_effort_1_loses_by_ann_and_says_which_effort_would_not(hnsw: Generation) -> None:
    found = points(hnsw, Efforts(1, 1))
    assert list(found) == ["encoder", "ann"]
    assert found["ann"] > 0
    greatest = hnsw.manifest.index.efforts[-1].effort
    chains = [explained(hnsw, query, Efforts(1, 1)) for query in QUERIES]
    assert {chain.enough for chain in chains} - {None}
    for query, chain in zip(QUERIES, chains, strict=True):
        if chain.enough is not None:
            better = {loss.step: loss for loss in losses(explained(hnsw, query, Efforts(chain.enough, chain.enough)).stands)}
            assert (better["ann"].lost, 1 < chain.enough <= greatest) == ((), True)


def test_coarse_codes_lose_by_quantisation_and_few_lists_by_ann(ivfpq: Generation) -> None:
    lists = ivfpq.manifest.index.efforts[-1].effort
    found = points(ivfpq, Efforts(1, 1))
    assert list(found) == ["encoder", "quantisation", "ann"]
    assert found["quantisation"] > 0
    assert points(ivfpq, Efforts(lists, lists))["ann"] == 0


def test_what_the_budget_takes_is_told_apart(hnsw: Generation) -> None:
    found = points(hnsw, Efforts(64, 1))
    assert list(found) == ["encoder", "ann", "budget"]
    assert found["ann"] + found["budget"] == pytest.approx(points(hnsw, Efforts(1, 1))["ann"])
    assert found["budget"] > 0


def test_the_filter_is_told_apart_from_the_effort(hnsw: Generation) -> None:
    found = points(hnsw, Efforts(1, 1), {"number": {"$lt": 40}})
    assert list(found) == ["encoder", "ann", "filter"]
    assert found["ann"] + found["filter"] == pytest.approx(0.0)  # forty documents are compared one by one: all comes back


def test_int8_is_told_apart_for_golden_probes_alone(tmp_path: Path) -> None:
    def torch_said_otherwise(layout: Layout) -> None:
        vectors = np.load(layout.golden_vectors)
        vectors += np.random.default_rng(3).normal(scale=0.2, size=vectors.shape).astype(np.float32)
        np.save(layout.golden_vectors, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    def int8(draft: Draft) -> Draft:
        golden = draft.golden.model_copy(update={"max_cosine_distance": 1.0, "min_recall": 0.0})
        return replace(draft, golden=golden, query_tower=draft.query_tower.model_copy(update={"precision": "int8"}))

    oracle = make_oracle(ROWS, DIM)
    with opened(tmp_path, "flat", tamper=torch_said_otherwise, revise=int8) as generation:
        lost = 0.0
        for number, query in enumerate(generation.golden.queries):
            chain = explained(generation, query, Efforts(0, 0))
            assert [stand.step for stand in chain.stands] == ["teacher", "encoder", "int8"]
            everything = np.ones(ROWS, bool)
            assert chain.stands[1].rows == tuple(best_rows(oracle, generation.golden.vectors[number], everything))
            assert chain.stands[2].rows == tuple(best_rows(oracle, oracle.encode([query.lower()])[0], everything))
            lost += sum(loss.points for loss in losses(chain.stands) if loss.step == "int8")
        assert lost != 0
        chain = explained(generation, "apple zebra", Efforts(0, 0))
        assert [stand.step for stand in chain.stands] == ["teacher", "encoder"]
        assert "golden probe" in chain.unknown["int8"]
        assert set(chain.absent) == {"quantisation", "ann"}


def test_an_index_in_several_files_is_taken_apart_as_one_in_a_file(tmp_path: Path) -> None:
    with opened(tmp_path, "sharded") as generation:
        index = generation.manifest.index
        chain = explained(generation, QUERIES[0], Efforts(index.efforts[0].effort, index.efforts[0].effort))
        assert [stand.step for stand in chain.stands] == ["teacher", "encoder", "quantisation", "ann"]
        assert isinstance(index, ShardedIndex)
        assert (index.refine == "fp32") is ("originals" not in chain.stands[2].note)
        assert sum(loss.points for loss in losses(chain.stands)) == pytest.approx(whole_loss(chain.stands))


def test_without_its_teacher_a_snapshot_says_that_the_encoders_part_is_unknown(tmp_path: Path) -> None:
    generation = open_generation(make_snapshot(tmp_path, kind="flat"), GenerationOptions(), lambda _: None)
    assert open_teacher(generation) is None
    chain = follow(generation, None, Search("apple"), Efforts(0, 0))
    assert "pack.teacher" in chain.unknown["encoder"]
    assert [stand.step for stand in chain.stands] == ["teacher"]
    assert (losses(chain.stands), whole_loss(chain.stands)) == ([], 0.0)
    generation.close()


def test_a_filter_that_leaves_few_or_nothing_or_makes_no_sense(hnsw: Generation) -> None:
    few = explained(hnsw, "apple", Efforts(1, 1), {"number": {"$lt": 3}})
    assert {stand.step: len(stand.rows) for stand in few.stands if stand.step != "ann"} == {
        "teacher": 3,
        "encoder": 3,
        "filter": 3,
    }
    nothing = explained(hnsw, "apple", Efforts(1, 1), {"number": {"$lt": 0}})
    assert (nothing.eligible, losses(nothing.stands)) == (0, [])
    with pytest.raises(InvalidRequestError, match="colour"):
        explained(hnsw, "apple", Efforts(1, 1), {"colour": "red"})
