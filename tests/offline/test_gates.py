"""The gates, on toy towers with numpy as oracle; what int8 does to a transformer is in test_quantize."""

import numpy as np
import pytest
from make_snapshot import fingerprint, make_oracle, write_tower
from tiny_work import make_prepared

from offline.data.prepared import Prepared
from offline.exported import Gate
from offline.gates import batch_gate, judged_for_gate, ndcg_gate
from offline.graph import Graph
from offline.judged import Judged
from offline.metrics import ndcg
from offline.recipe import Recipe
from snapshot.layout import Layout
from snapshot.manifest import TextSpec

SPEC = TextSpec(max_tokens=12)
RECIPE = Recipe(name="toy")
ORACLE = make_oracle(60)


def graph(folder, table):
    layout = Layout(folder)
    write_tower(layout, table, fingerprint(0))
    return Graph.open(layout.model, layout.tokenizer, SPEC)


@pytest.fixture
def fp32(tmp_path):
    return graph(tmp_path / "fp32", ORACLE.table)


@pytest.fixture
def prepared(tmp_path):
    return Prepared(make_prepared(tmp_path / "prepare"))


class Neighbourly:
    """A tower whose vectors lean towards the mean of their batch."""

    def __init__(self, base, share):
        self.base = base
        self.share = share

    def encode(self, texts, batch_size=1):
        batches = [self.base.encode(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size)]
        return np.concatenate([vectors + self.share * vectors.mean(axis=0) for vectors in batches])


def test_a_tower_that_heeds_only_the_text_passes_the_batch_gate(fp32):
    found = batch_gate(fp32, ORACLE.texts, 1e-5)
    assert found.passed
    assert found.value < 1e-6


@pytest.mark.parametrize(("share", "passed"), [(0.1, False), (1e-6, True)])
def test_a_tower_that_heeds_its_neighbours_fails_the_batch_gate(share, passed, fp32):
    assert batch_gate(Neighbourly(fp32, share), ORACLE.texts, 1e-5).passed is passed


def test_vectors_that_are_not_numbers_pass_no_gate(fp32):
    assert not batch_gate(Neighbourly(fp32, np.nan), ORACLE.texts, 1e-5).passed
    assert not Gate.compare("any", np.nan, 1.0, "value").passed


def test_the_ndcg_gate_measures_what_is_lost(fp32, prepared, tmp_path):
    noise = np.random.default_rng(1).normal(size=ORACLE.table.shape).astype(np.float32)
    worse = graph(tmp_path / "worse", ORACLE.table + noise)
    judged = judged_for_gate(prepared, RECIPE)
    found = ndcg_gate(fp32, worse, judged, SPEC, ORACLE.documents, 0.005)
    before = ndcg(judged, ORACLE.rows(judged.texts, 10)).mean()
    after = ndcg(judged, np.argsort(-(worse.encode(judged.texts) @ ORACLE.documents.T), axis=1)[:, :10]).mean()
    assert found.value == pytest.approx(before - after)
    assert found.value > 0.005
    assert not found.passed
    assert "60 training queries" in found.detail


def test_nothing_lost_passes_the_ndcg_gate(fp32, prepared):
    found = ndcg_gate(fp32, fp32, judged_for_gate(prepared, RECIPE), SPEC, ORACLE.documents, 0.005)
    assert (found.value, found.passed) == (0.0, True)


@pytest.mark.parametrize(
    ("rows", "splits", "used"),
    [
        (200, ("dev", "test"), "dev"),
        (60, ("dev", "test"), "made-up"),
        (60, ("train", "test"), "training"),
        (60, ("train",), "training"),
        (60, (), "made-up"),
    ],
)
def test_int8_is_judged_by_dev_if_it_is_large_else_by_training_pairs(rows, splits, used, tmp_path):
    judged = judged_for_gate(Prepared(make_prepared(tmp_path, rows, splits)), RECIPE)
    assert judged.split == used
    found = [next(iter(scores)) for scores in judged.judgements]
    texts = make_oracle(rows).texts
    assert all(texts[row].startswith(text) for row, text in zip(found, judged.texts, strict=True))


def test_with_nothing_to_judge_by_int8_fails(fp32):
    nothing = Judged(split="training", ids=(), texts=(), judgements=(), relevance=1, skipped=0)
    assert not ndcg_gate(fp32, fp32, nothing, SPEC, ORACLE.documents, 0.005).passed
