"""docs/capacity.md says what docs/performance.json says."""

import json

from offline.plan.bench import Table, Tables
from tests.scale.capacity import BEGIN, BENCH, DOCS, END, PAGE, Capacity, capacity, main, renewed

PERFORMANCE = json.loads((DOCS / BENCH).read_text(encoding="utf-8"))


def test_the_page_is_up_to_date() -> None:
    page = (DOCS / PAGE).read_text(encoding="utf-8")
    assert page == renewed(page, PERFORMANCE), "write it anew: python -m tests.scale.capacity"


def test_another_bench_gives_another_page(tmp_path) -> None:
    tables = Tables({each["title"]: Table.model_validate(each) for each in PERFORMANCE["tables"]})
    answers = f"{capacity(tables, 'hnsw 1000000').answers:g}"
    faster = json.loads(json.dumps(PERFORMANCE).replace(f'"{answers}"', '"7440"'))
    (tmp_path / BENCH).write_text(json.dumps(faster))
    (tmp_path / PAGE).write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert main(["--docs", str(tmp_path)]) == 0
    page = (tmp_path / PAGE).read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "| hnsw 1000000 | 7440 |" in page
    assert "old" not in page


def test_replicas_are_enough_by_the_least_figure() -> None:
    found = Tables({each["title"]: Table.model_validate(each) for each in PERFORMANCE["tables"]})
    each = capacity(found, "hnsw 1000000")
    assert each.least < each.answers
    for qps in (1, 1000, 10_000):
        assert (each.replicas(qps) - 1) * each.least * 0.5 >= qps
        assert (each.replicas(qps) - 2) * each.least * 0.5 < qps
    assert Capacity(100.0, 100.0).replicas(50) == 2
