from __future__ import annotations

import numpy as np
import pytest
from fake_engine import NullEngine, NumpyEngine
from make_snapshot import make_oracle, make_snapshot

from service.encoder import Encoder
from service.golden import prove, read_golden
from snapshot.errors import GoldenMismatchError
from snapshot.manifest import read_manifest

ORACLE = make_oracle()


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    layout = make_snapshot(tmp_path_factory.mktemp("registry"))
    manifest = read_manifest(layout.manifest)
    encoder = Encoder.open(layout, manifest.query_tower, manifest.space, threads=1)
    return manifest, encoder, read_golden(layout, manifest)


def test_recall_is_the_share_of_golden_hits_found(sealed):
    manifest, encoder, golden = sealed
    lenient = manifest.model_copy(update={"golden": manifest.golden.model_copy(update={"min_recall": 0.0})})
    hidden = np.unique(golden.rows[:, 0])  # without the best hit of every probe
    documents = ORACLE.documents.copy()
    documents[hidden] = -1.0
    expected = 1 - np.isin(golden.rows, hidden).mean()
    assert prove(golden, lenient, encoder, NumpyEngine(documents)).recall == pytest.approx(expected)
    assert expected < 0.9
    with pytest.raises(GoldenMismatchError, match=f"recall@5 {expected:.3f}"):
        prove(golden, manifest, encoder, NumpyEngine(documents))


def test_an_engine_without_hits_has_no_recall(sealed):
    manifest, encoder, golden = sealed
    with pytest.raises(GoldenMismatchError, match=r"recall@5 0\.000"):
        prove(golden, manifest, encoder, NullEngine())


def test_the_worst_probe_is_named(sealed):
    manifest, encoder, golden = sealed
    vectors = golden.vectors.copy()
    vectors[3] = -vectors[3]
    spoiled = type(golden)(golden.queries, vectors, golden.rows)
    with pytest.raises(GoldenMismatchError, match=rf"2\.00e\+00 to the golden vector of probe 3 \('{golden.queries[3]}"):
        prove(spoiled, manifest, encoder, NumpyEngine(ORACLE.documents))
