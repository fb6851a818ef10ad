"""Whether what answers say of their recall is held against what they found."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.bench.budget import truth
from tests.bench.loads import Outcome
from tests.bench.zipf import in_zipf_order


def answered(request, rows, expected_recall=None, causes=("deadline_effort",)):
    degraded = None if expected_recall is None else {"causes": list(causes), "expected_recall": expected_recall}
    body = {"hits": [{"id": f"doc-{row}"} for row in rows], "degraded": degraded}
    return Outcome("search", request, 0, 0, 1, 200, b"", json.dumps(body).encode())


def test_recall_of_marked_answers_is_compared_with_what_they_promised():
    best = {b"a": np.array([1, 2, 3, 4]), b"b": np.array([5, 6, 7, 8])}
    figures = truth(
        [
            answered(b"a", [1, 2, 3, 9], 0.8),
            answered(b"b", [5, 6, 7, 8], 0.9),
            answered(b"b", [], None),
            answered(b"b", [], 0.1, causes=["deadline_fields"]),
        ],
        best,
    )
    assert figures["marked_share"] == 0.5
    assert figures["expected_recall"] == pytest.approx(0.85)
    assert figures["realised_recall"] == pytest.approx(0.875)
    assert figures["recall_gap"] == pytest.approx(0.025)


def test_nothing_marked_leaves_nothing_to_compare():
    assert truth([answered(b"a", [1])], {b"a": np.array([1])}) == {"marked_share": 0.0}


def test_zipf_asks_the_first_query_as_often_as_the_law_says():
    requests = [str(number).encode() for number in range(100)]
    drawn = in_zipf_order(requests, 50_000)
    harmonic = sum(1 / rank for rank in range(1, 101))
    assert drawn.count(b"0") / len(drawn) == pytest.approx(1 / harmonic, rel=0.05)
    assert drawn.count(b"9") / len(drawn) == pytest.approx(1 / harmonic / 10, rel=0.15)
