from collections import Counter

import numpy as np
import pytest
from tiny_models import make_tiny_bert

from offline.batches import GroupedBatches, LengthBatches, PairCollator, Pairs, TextCollator, relation
from offline.losses import MASKED, NEGATIVE, POSITIVE
from offline.towers import build_tower
from snapshot.manifest import TextSpec

ROWS = np.array([0, 1, 1, 1, 1, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10])


def pairs_of(*items):
    queries, documents, rows = zip(*items, strict=True)
    return Pairs(queries, documents, np.array(rows))


def relate(pairs):
    documents = list(dict.fromkeys(pairs.documents))
    return relation(pairs, pairs.positives(), range(len(pairs)), documents)


def test_an_epoch_holds_every_pair_once():
    for batches in (GroupedBatches(ROWS, 4, 2, seed=1), LengthBatches(ROWS, 4, seed=1)):
        listed = list(batches)
        assert len(listed) == len(batches)
        assert sorted(i for batch in listed for i in batch) == list(range(len(ROWS)))


def test_the_queries_of_a_document_come_together():
    (batch,) = GroupedBatches(ROWS, batch_size=11, per_document=100, seed=1)
    rows = ROWS[batch].tolist()
    assert [row for i, row in enumerate(rows) if i == 0 or rows[i - 1] != row] == list(dict.fromkeys(rows))


def test_a_document_with_many_queries_is_spread():
    sizes = [Counter(ROWS[batch].tolist()) for batch in GroupedBatches(ROWS, batch_size=2, per_document=2, seed=1)]
    assert len(sizes) == 6  # 11 documents, of which row 1 has 5 queries: 13 chunks
    assert all(2 <= sum(size.values()) <= 6 for size in sizes)


def test_batches_are_of_even_size():
    batches = list(GroupedBatches(np.arange(130), batch_size=64, per_document=8, seed=1))
    assert [len(batch) for batch in batches] == [65, 65]


def test_batches_follow_from_seed_and_epoch():
    first, second = (GroupedBatches(ROWS, 4, 2, seed=1) for _ in range(2))
    assert list(first) == list(second)
    second.set_epoch(1)
    assert list(first) != list(second)
    first.set_epoch(1)
    assert list(first) == list(second)
    assert list(GroupedBatches(ROWS, 4, 2, seed=2)) != list(GroupedBatches(ROWS, 4, 2, seed=1))


def test_texts_of_like_length_share_a_batch():
    lengths = np.random.default_rng(0).integers(1, 100, size=640)
    batches = list(LengthBatches(lengths, 64, seed=1))
    assert max(np.ptp(lengths[batch]) for batch in batches) < 30
    assert [lengths[batch].max() for batch in batches] != sorted(lengths[batch].max() for batch in batches)


def test_other_documents_of_the_batch_are_negatives():
    assert relate(pairs_of(("a", "x", 0), ("b", "y", 1))).tolist() == [[POSITIVE, NEGATIVE], [NEGATIVE, POSITIVE]]


def test_a_document_is_one_column_for_all_its_queries():
    assert relate(pairs_of(("a", "x", 0), ("b", "x", 0), ("c", "y", 1))).tolist() == [
        [POSITIVE, NEGATIVE],
        [POSITIVE, NEGATIVE],
        [NEGATIVE, POSITIVE],
    ]


def test_another_known_positive_is_no_negative():
    assert relate(pairs_of(("a", "x", 0), ("a", "y", 1), ("b", "z", 2))).tolist() == [
        [POSITIVE, MASKED, NEGATIVE],
        [MASKED, POSITIVE, NEGATIVE],
        [NEGATIVE, NEGATIVE, POSITIVE],
    ]


def test_a_known_positive_counts_when_its_pair_is_in_another_batch():
    pairs = pairs_of(("a", "x", 0), ("b", "y", 1), ("a", "y", 1))
    assert relation(pairs, pairs.positives(), [0, 1], ["x", "y"]).tolist() == [[POSITIVE, MASKED], [NEGATIVE, POSITIVE]]


def test_another_text_of_the_same_document_is_no_negative():
    assert relate(pairs_of(("a", "x without a", 0), ("b", "x without b", 0))).tolist() == [[POSITIVE, MASKED], [MASKED, POSITIVE]]


def test_the_same_text_of_another_document_is_the_same_column():
    assert relate(pairs_of(("a", "twin", 0), ("b", "twin", 1), ("c", "z", 2))).tolist() == [
        [POSITIVE, NEGATIVE],
        [POSITIVE, NEGATIVE],
        [NEGATIVE, POSITIVE],
    ]


def test_a_text_shared_with_a_known_positive_is_no_negative():
    pairs = pairs_of(("a", "x", 0), ("a", "twin", 1), ("b", "twin", 3))
    assert relation(pairs, pairs.positives(), [0, 1, 2], ["x", "twin"]).tolist()[0] == [POSITIVE, MASKED]


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return build_tower(str(make_tiny_bert(tmp_path_factory.mktemp("bert"))))


def test_collated_pairs_are_sorted_by_length_and_cut(tower):
    pairs = pairs_of(("aa bb cc dd", "xx yy zz", 0), ("ee", "xx yy zz", 0), ("fff", "vv", 1))
    collate = PairCollator(tower, tower, TextSpec(max_tokens=5), TextSpec(max_tokens=4), pairs, pairs.positives())
    batch = collate([{"index": 0}, {"index": 1}, {"index": 2}])
    assert batch["query_attention_mask"].sum(dim=1).tolist() == [4, 5, 5]
    assert batch["document_attention_mask"].sum(dim=1).tolist() == [4, 4]
    assert batch["label"].tolist() == [[NEGATIVE, POSITIVE], [POSITIVE, NEGATIVE], [NEGATIVE, POSITIVE]]


def test_collated_texts_carry_their_own_vectors(tower):
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    batch = TextCollator(tower, TextSpec(max_tokens=5), ["a", "b", "c"], vectors)([{"index": 2}, {"index": 0}])
    assert batch["label"].tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert batch["text_input_ids"].shape == (2, 3)


def test_a_sample_of_the_pairs_still_knows_every_positive() -> None:
    pairs = Pairs(["q", "q", "other"], ["x", "y", "z"], np.array([0, 1, 2]))
    for seed in range(5):
        assert pairs.sample(2, seed).positives() == {"q": frozenset({0, 1}), "other": frozenset({2})}
