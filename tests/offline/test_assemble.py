"""Parts that do not belong together are refused by the name of what differs."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import faiss
import numpy as np
import pytest

from offline.assemble import Probes, _write_golden, check
from offline.config import TextConfig
from offline.errors import DimensionError
from offline.index import build
from snapshot.errors import CountMismatchError, SpaceMismatchError
from snapshot.layout import Layout
from snapshot.manifest import Space

VECTORS = np.eye(32, dtype=np.float32)


@dataclass(frozen=True)
class FakeGraph:
    """What is asked of a graph."""

    space: str | None = "a" * 64
    dim: int = 32


@dataclass(frozen=True)
class Parts:
    graph: FakeGraph
    space: Space
    index: faiss.Index
    vectors: np.ndarray
    documents: int


PARTS = Parts(FakeGraph(), Space(fingerprint="a" * 64, dim=32), build("flat", {}, VECTORS), VECTORS, 32)


def check_with(**changed):
    parts = replace(PARTS, **changed)
    check(parts.graph, parts.space, parts.index, parts.vectors, parts.documents)


def test_what_belongs_together_passes():
    check_with()


@pytest.mark.parametrize(
    ("error", "match", "changed"),
    [
        (SpaceMismatchError, "exported for the document space a", {"space": Space(fingerprint="0" * 64, dim=32)}),
        (SpaceMismatchError, "exported for the document space None", {"graph": FakeGraph(space=None)}),
        (DimensionError, "the space 48", {"space": Space(fingerprint="a" * 64, dim=48)}),
        (DimensionError, "the query tower 16", {"graph": FakeGraph(dim=16)}),
        (CountMismatchError, "the documents 32, the vectors 32, the index 31", {"index": build("flat", {}, VECTORS[:31])}),
        (CountMismatchError, "the documents 33, the vectors 32, the index 32", {"documents": 33}),
    ],
)
def test_others_are_refused(error, match, changed):
    with pytest.raises(error, match=match):
        check_with(**changed)


def test_equal_documents_have_the_golden_answers_that_the_index_finds(tmp_path):
    documents, asked = np.tile(np.float32([1, 0]), (50, 1)), np.float32([[1, 0], [0.6, 0.8]])
    job = SimpleNamespace(recipe=SimpleNamespace(pack=SimpleNamespace(golden_k=5), text=TextConfig()))
    graph = SimpleNamespace(encode=lambda texts, batch_size: asked)
    index = SimpleNamespace(search=lambda queries, k: np.tile(np.arange(49, 49 - k, -1), (len(queries), 1)))
    content = SimpleNamespace(probes=Probes(["one", "two"], asked), vectors=documents)
    golden = _write_golden(job, content, graph, index, Layout(tmp_path))
    assert golden.min_recall == 0.95
    assert np.load(Layout(tmp_path).golden_rows).tolist() == [[49, 48, 47, 46, 45]] * 2
