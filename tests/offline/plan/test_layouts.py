"""The formulas against FAISS itself, and against what the bench measured."""

import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from offline.plan.bench import Table, Tables
from offline.plan.demand import Box, Demand
from offline.plan.figures import load_figures
from offline.plan.layouts import HNSW, IVFPQ, LAYOUTS, SHARDED
from offline.plan.make import make_plan, search_ms, values_at
from offline.plan.operating import operating_point
from offline.plan.sheet import compute, names_in
from service.engines.stored import rows_compared

ROWS, DIM = 20_000, 64
PERFORMANCE = json.loads((Path(__file__).parents[3] / "docs" / "performance.json").read_text(encoding="utf-8"))


def value(layout, name: str, **given: float) -> float:
    """One step by itself."""
    step = next(step for step in layout.steps if step.name == name)
    found = compute([step], given, {})[name]
    assert found is not None
    return found


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((ROWS, DIM), np.float32)


def size_of(index, vectors) -> float:
    """Bytes of the file for a vector."""
    index.train(vectors)
    index.add(vectors)
    return len(faiss.serialize_index(index)) / len(vectors)


@pytest.mark.parametrize("m", [16, 32])
def test_a_graph_takes_what_faiss_writes(vectors, m: int) -> None:
    index = faiss.IndexHNSWFlat(DIM, m, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 8
    assert value(HNSW, "vector_bytes", dim=DIM, m=m) == pytest.approx(size_of(index, vectors), rel=0.01)


def test_ivfpq_takes_what_faiss_writes(vectors) -> None:
    lists = round(4 * ROWS**0.5)
    codes = faiss.IndexIVFPQ(faiss.IndexFlatIP(DIM), DIM, lists, DIM // 4, 8, faiss.METRIC_INNER_PRODUCT)
    codes.cp.niter = codes.pq.cp.niter = 1
    index = faiss.IndexRefineFlat(codes)
    expected = value(IVFPQ, "vector_bytes", dim=DIM, documents=ROWS)
    assert expected == pytest.approx(size_of(index, vectors), rel=0.03)  # codebooks are 64 kB whatever the rows


def test_rabitq_codes_take_what_faiss_says() -> None:
    for dim in (384, 768, 1024):
        index = faiss.IndexIVFRaBitQ(faiss.IndexFlatIP(dim), dim, 16, faiss.METRIC_INNER_PRODUCT, True, 2)
        assert value(SHARDED, "code_bytes", dim=dim) == index.code_size + 8


@pytest.mark.parametrize("rows", [10_000, 100_000, 1_000_000])
def test_formulas_give_the_sizes_that_the_bench_measured(rows: int) -> None:
    bench = Tables({table["title"]: Table.model_validate(table) for table in PERFORMANCE["tables"]})
    for layout, subject in ((HNSW, "hnsw"), (IVFPQ, "ivfpq")):
        predicted_mb = value(layout, "vector_bytes", dim=384, m=16, documents=rows) * rows / 1e6
        measured_mb = bench.find("sizes", f"{subject} {rows}", "once", "index_mb").mid
        assert predicted_mb == pytest.approx(measured_mb, rel=0.03)


def test_a_searchs_time_is_the_measured_one_where_it_was_measured_and_grows_beyond() -> None:
    assert search_ms(5e4, 1.0, 3.0, 0.25) == 1.0
    assert search_ms(1e5 + 1, 1.0, 3.0, 0.25) == pytest.approx(1.0, rel=1e-3)
    assert search_ms(1e6, 1.0, 3.0, 0.25) == pytest.approx(3.0)
    assert search_ms(10**5.5, 1.0, 4.0, 0.25) == pytest.approx(2.0)
    assert search_ms(1.6e7, 1.0, 3.0, 0.25) == pytest.approx(6.0)


@pytest.fixture(scope="module")
def plan():
    return make_plan(Demand(1e6, 384, 1000, 50), Box(), load_figures(), seed=3)


def test_every_name_in_a_formula_is_given_or_computed_before(plan) -> None:
    for planned in plan.layouts:
        known = set(plan.given)
        for step in planned.layout.steps:
            assert set(names_in(step.formula)) <= known, step.name
            known.add(step.name)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_more_of_everything_never_needs_less(layout) -> None:
    def likely(factor: float):
        demand = Demand(2e6 * factor, 384, 200 * factor, 200, tokens=64 * factor, document_bytes=100 * factor)
        return values_at("likely", layout, demand, Box(), load_figures(), seed=1)

    before, after = likely(1), likely(4)
    for name in ("box_gb", "disk_total_gb", "replicas", "boxes", "encode_hours", "build_hours", "once_cost", "month_cost"):
        assert after[name] >= before[name] > 0, name


def test_ends_enclose_the_likely_figure(plan) -> None:
    for planned in plan.layouts:
        for step in planned.layout.steps:
            low, mid, high = planned.span(step.name)
            if None not in (low, mid, high):
                assert low <= mid * 1.0001, step.name
                assert mid <= high * 1.0001, step.name


def test_verdicts_say_why(plan) -> None:
    assert plan.layouts[0].verdict.startswith("fits")
    huge = make_plan(Demand(1e9, 384, 1, 1000), Box(), load_figures(), layouts=[HNSW]).layouts[0]
    assert huge.verdict.startswith("does not fit")
    assert not huge.feasible
    assert huge.larger_box_gb is not None
    roomy = make_plan(Demand(1e9, 384, 1, 1000), Box(memory_gb=huge.larger_box_gb), load_figures(), layouts=[HNSW]).layouts[0]
    assert roomy.feasible
    assert roomy.larger_box_gb is None
    small = make_plan(Demand(1e6, 384, 100, 50), Box(cores=1), load_figures(), layouts=[HNSW])
    assert small.layouts[0].verdict == "does not fit: a process takes more than the 1 cores of a box"
    assert small.advised is None
    hurried = make_plan(Demand(1e6, 384, 100, 1), Box(), load_figures())
    assert all(each.verdict.startswith("too slow") for each in hurried.layouts)
    assert hurried.advised is None


def test_too_slow_says_whether_it_is_the_search_or_what_is_left_to_wait() -> None:
    hurried, tight = (
        make_plan(Demand(1e3, 384, 10, p99_ms), Box(), load_figures(), layouts=[HNSW]).layouts[0] for p99_ms in (1, 6.5)
    )
    assert hurried.verdict.endswith("ms at p99, of 1")
    assert tight.verdict.endswith("ms at p99, of 6.5, which leaves no time to wait at any load")


def test_hardly_any_load_needs_one_of_each() -> None:
    for each in make_plan(Demand(1e6, 384, 1e-6, 200), Box(), load_figures()).layouts:
        assert each.verdict.startswith("fits"), each
        assert each.values["likely"]["boxes"] >= 1


def test_further_files_take_cpu_of_each_search() -> None:
    figures = load_figures()
    rows = figures.by_name["shard_rows"]
    many = figures.override({"shard_rows": rows.model_copy(update={"mid": 1e6})}, None)
    few, split = (values_at("likely", SHARDED, Demand(1e8, 384, 100, 200), Box(), each, seed=1) for each in (figures, many))
    per_file = figures.by_name["lists_probed"].mid * figures.by_name["file_list_us"].mid / 1000
    assert (few["shards"], split["shards"]) == (2, 100)
    assert split["core_ms"] - few["core_ms"] == pytest.approx(98 * per_file)


@pytest.mark.parametrize(("dim", "pages"), [(384, 1), (2048, 1), (4096, 2)])
def test_wide_rows_take_more_reads(dim: int, pages: int) -> None:
    assert value(SHARDED, "reads", k=10, refine_factor=8, dim=dim) == 80 * pages


@pytest.mark.parametrize(("k", "rows"), [(1, 10), (100, 100)])
def test_few_hits_take_the_reads_of_ten_as_the_service_compares_them(k: int, rows: int) -> None:
    assert value(SHARDED, "reads", k=k, refine_factor=8, dim=384) == rows_compared(k, 8) == 8 * rows


def test_a_plan_repeats(plan) -> None:
    operating_point.cache_clear()
    again = make_plan(plan.demand, plan.box, load_figures(), seed=3, layouts=[HNSW])
    assert again.layouts[0] == plan.layouts[0]
