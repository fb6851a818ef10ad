"""Oracle: the toy tower in numpy. The torch tower is compared in test_export."""

import numpy as np
import pytest
from make_snapshot import fingerprint, make_oracle, write_tower

from offline.graph import Graph, cosine_distance
from snapshot.layout import Layout
from snapshot.manifest import TextSpec

TEXTS = ["apple", "bread chair drum", "zebra " * 30, "river spoon apple apple lamp", "unknown words here", "ink"]


@pytest.fixture
def opened(tmp_path):
    oracle, layout = make_oracle(), Layout(tmp_path)
    write_tower(layout, oracle.table, fingerprint(7))
    return oracle, Graph.open(layout.model, layout.tokenizer, TextSpec(max_tokens=12), pad_token_id=3)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_vectors_are_those_of_numpy_in_any_batch(batch_size, opened):
    oracle, graph = opened
    assert np.allclose(graph.encode(TEXTS, batch_size), oracle.encode(TEXTS), atol=1e-6)


def test_width_and_space_are_read_from_the_file(opened):
    _, graph = opened
    assert graph.dim == 16
    assert graph.space == fingerprint(7)


def test_no_text_gives_no_vector(opened):
    assert opened[1].encode([]).shape == (0, 16)


def test_cosine_distance_does_not_depend_on_length():
    vectors = np.array([[1, 0], [3, 4]], np.float32)
    assert cosine_distance(vectors, np.array([[0, 2], [6, 8]], np.float32)) == pytest.approx([1, 0])
    assert np.isnan(cosine_distance(vectors, np.zeros((2, 2), np.float32))).all()
