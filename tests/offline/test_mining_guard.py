"""Mining where the guard lets nothing through: before anything is learnt, and later."""

from types import SimpleNamespace

import numpy as np
import pytest

from offline.batches import Pairs
from offline.config import NegativesConfig
from offline.data.negatives import Negatives, read
from offline.dev_search import Search
from offline.errors import TrainingError
from offline.mining import Miner

SPREAD = np.array([[1, 0], [0.99, 0.14], [0, 1], [-1, 0]], np.float32)
CLOSE = np.array([[1, 0], [0.999, 0.04], [0.998, 0.06], [0.997, 0.08]], np.float32)
"""As the vectors of a backbone whose cosines are all high."""
TEXTS = ["one", "two", "three", "one"]


class Towers(Search):
    """Documents at ``vectors``, and a query at the first of them."""

    vectors = CLOSE

    def document_vectors(self, learner, step):
        return self.vectors

    def query_vectors(self, learner, queries):
        return self.vectors[:1]


@pytest.fixture
def search():
    return Towers(np.arange(4) + 10, TEXTS, None, None, None, None)


@pytest.fixture
def mine(tmp_path, search):
    """Begin an epoch with those vectors; the rows that are drawn from. ``sources`` as in the recipe."""

    def begin(epoch, vectors, sources=("towers", "bm25")):
        search.vectors, negatives = vectors, Negatives(1, 1)
        by_words = [np.array([2, 3, 0, -1])] if "bm25" in sources else None
        config = NegativesConfig(per_document=1, sources=sources)
        pairs = Pairs(["q"], ["one"], np.array([10]))
        miner = Miner(tmp_path, config, negatives, search, pairs, 7, by_words)
        miner.on_epoch_begin(None, SimpleNamespace(global_step=7 * epoch), None, model=None)
        return negatives.candidates["q"].tolist()

    return begin


def test_before_anything_is_learnt_words_stand_in_for_high_cosines(mine, capsys):
    assert mine(0, CLOSE) == [12], "neither the known positive nor a document of the same text"
    assert "negatives are what BM25 finds, unguarded, until they are mined again" in capsys.readouterr().err


def test_later_the_towers_guard_again(mine):
    mine(0, CLOSE)
    assert mine(1, SPREAD) == [12, 13]


def test_a_refresh_that_finds_none_keeps_what_was_mined(mine, tmp_path, capsys):
    assert mine(0, SPREAD) == [12, 13]
    assert mine(1, CLOSE) == [12, 13]
    assert mine(2, CLOSE) == [12, 13]
    assert "that were mined before are kept" in capsys.readouterr().err
    assert read(tmp_path / "001.parquet").equals(read(tmp_path / "000.parquet"))


def test_negatives_that_are_false_after_learning_too_end_the_training(mine):
    mine(0, CLOSE)
    with pytest.raises(TrainingError, match=r"all 3 candidates of 1 queries are false negatives"):
        mine(1, CLOSE)


def test_without_words_there_is_nothing_to_begin_with(mine):
    with pytest.raises(TrainingError, match=r"have bm25 among train\.negatives\.sources"):
        mine(0, CLOSE, sources=("towers",))
