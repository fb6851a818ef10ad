from types import SimpleNamespace

import numpy as np

from offline.batches import Pairs
from offline.config import NegativesConfig
from offline.data.negatives import Negatives
from offline.mining import Miner


class Space:
    """Search among documents 10 to 15, each a direction of its own; every query leans to them in turn, most to the first."""

    rows = np.arange(10, 16)
    documents = tuple("uvwxyz")

    def places(self, rows):
        return np.flatnonzero(np.isin(self.rows, rows))

    def document_vectors(self, learner, step):
        return np.eye(6, dtype=np.float32)

    def query_vectors(self, learner, queries):
        leaning = np.array([[0.8, 0.4, 0.3, 0.2, 0.1, 0.1]] * len(queries), np.float32)
        return leaning / np.linalg.norm(leaning, axis=1, keepdims=True)


def mined(folder, pairs, by_words=None, guard=0.95):
    negatives = Negatives(1, seed=0)
    config = NegativesConfig(per_document=1, sources=("towers",), depth=4, guard=guard)
    miner = Miner(folder, config, negatives, Space(), pairs, steps=1, by_words=by_words)
    miner.on_epoch_begin(None, SimpleNamespace(global_step=0), None, model=None)
    return {query: rows.tolist() for query, rows in negatives.candidates.items()}


def test_neither_positives_nor_the_query_itself_are_hard_negatives(tmp_path):
    queries, rows = ["a", "b"], np.array([10, 10])
    assert mined(tmp_path / "plain", Pairs(queries, ["x", "x"], rows)) == {"a": [11, 12, 13], "b": [11, 12, 13]}
    spared = {"b": frozenset({12, 99})}
    assert mined(tmp_path / "same", Pairs(queries, ["x", "x"], rows, spared=spared)) == {"a": [11, 12, 13], "b": [11, 13]}


def test_nor_are_they_where_only_words_find_any(tmp_path):
    pairs = Pairs(["a", "b"], ["x", "x"], np.array([10, 10]), spared={"b": frozenset({12})})
    by_words = [np.array([2, 3, -1]), np.array([2, 3, -1])]
    assert mined(tmp_path, pairs, by_words, guard=0.01) == {"a": [12, 13], "b": [13]}
