from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import make_tiny_bert

from offline.batches import GroupedBatches, LengthBatches, PairCollator, Pairs, Related, TextCollator, _filled, _Share
from offline.data.negatives import Negatives
from offline.errors import TrainingError
from offline.losses import MASKED, NEGATIVE, POSITIVE, relate
from offline.towers import build_tower
from snapshot.manifest import TextSpec

ROWS = np.array([0, 1, 1, 1, 1, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10])


def pairs_of(*items):
    queries, documents, rows = zip(*items, strict=True)
    return Pairs(queries, documents, np.array(rows))


def relation(pairs, chosen=None, searched=None):
    """How the different queries of chosen pairs relate to their different documents."""
    related = Related.of(pairs, searched)
    chosen = range(len(pairs)) if chosen is None else chosen
    queries = dict.fromkeys(pairs.queries[i] for i in chosen)
    labels = (_filled([of[query] for query in queries]) for of in (related.positives, related.known))
    documents = list(dict.fromkeys(related.of_pair[list(chosen)].tolist()))
    return relate(torch.arange(len(queries)), torch.tensor(documents), *labels).tolist()


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


def test_a_query_with_many_positives_learns_some_of_them_in_each_epoch():
    rows, queries = np.arange(50), ["many"] * 40 + [f"q{i}" for i in range(10)]
    batches = GroupedBatches(rows, batch_size=6, per_document=2, seed=1, queries=queries, per_query=8)
    epochs = []
    for epoch in range(2):
        batches.set_epoch(epoch)
        listed = list(batches)
        assert len(listed) == len(batches) == 3
        epochs.append({i for batch in listed for i in batch})
        assert len(epochs[-1]) == 18
        assert set(range(40, 50)) <= epochs[-1]
    assert epochs[0] != epochs[1]


def test_a_limit_that_no_query_reaches_changes_nothing():
    queries = [f"q{i // 2}" for i in range(len(ROWS))]
    limited = GroupedBatches(ROWS, 4, 2, seed=1, queries=queries, per_query=2)
    assert list(limited) == list(GroupedBatches(ROWS, 4, 2, seed=1))


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
    assert relation(pairs_of(("a", "x", 0), ("b", "y", 1))) == [[POSITIVE, NEGATIVE], [NEGATIVE, POSITIVE]]


def test_a_document_is_one_column_for_all_its_queries():
    assert relation(pairs_of(("a", "x", 0), ("b", "x", 0), ("c", "y", 1))) == [
        [POSITIVE, NEGATIVE],
        [POSITIVE, NEGATIVE],
        [NEGATIVE, POSITIVE],
    ]


def test_every_positive_of_a_query_counts():
    assert relation(pairs_of(("a", "x", 0), ("a", "y", 1), ("b", "z", 2))) == [
        [POSITIVE, POSITIVE, NEGATIVE],
        [NEGATIVE, NEGATIVE, POSITIVE],
    ]


def test_a_known_positive_counts_when_its_pair_is_in_another_batch():
    pairs = pairs_of(("a", "x", 0), ("b", "y", 1), ("a", "y", 1))
    assert relation(pairs, [0, 1]) == [[POSITIVE, POSITIVE], [NEGATIVE, POSITIVE]]


def test_a_known_positive_that_was_not_sampled_is_no_negative():
    pairs = pairs_of(("a", "x", 0), ("b", "y", 1), ("a", "y again", 1)).take([0, 1])
    assert relation(pairs) == [[POSITIVE, MASKED], [NEGATIVE, POSITIVE]]


def test_another_text_of_the_same_document_is_no_negative():
    pairs = pairs_of(("a", "x without a", 0), ("b", "x without b", 0))
    assert relation(pairs) == [[POSITIVE, MASKED], [MASKED, POSITIVE]]


def test_the_searched_text_of_a_known_positive_is_no_negative():
    pairs = pairs_of(("a", "x without a", 0), ("b", "x", 7))
    assert relation(pairs, searched={0: "x", 7: "x"}) == [[POSITIVE, MASKED], [NEGATIVE, POSITIVE]]


def test_a_document_that_is_the_query_itself_is_no_negative():
    pairs = replace(pairs_of(("a", "x", 0), ("b", "A!", 1), ("c", "z", 2)), spared={"a": frozenset({1, 9})})
    expected = [[POSITIVE, MASKED, NEGATIVE], [NEGATIVE, POSITIVE, NEGATIVE], [NEGATIVE, NEGATIVE, POSITIVE]]
    assert relation(pairs) == expected
    assert relation(pairs.take([0, 1, 2])) == expected


def test_the_same_text_of_another_document_is_the_same_column():
    assert relation(pairs_of(("a", "twin", 0), ("b", "twin", 1), ("c", "z", 2))) == [
        [POSITIVE, NEGATIVE],
        [POSITIVE, NEGATIVE],
        [NEGATIVE, POSITIVE],
    ]


def test_what_another_process_sent_too_counts_once():
    positives = torch.tensor([[3, -1], [4, 3], [3, -1]])
    relation = relate(torch.tensor([8, 9, 8]), torch.tensor([3, 4, 3]), positives, positives)
    assert relation.tolist() == [[POSITIVE, NEGATIVE, MASKED], [POSITIVE, POSITIVE, MASKED], [MASKED, MASKED, MASKED]]


def test_processes_share_out_an_epoch():
    shares = [_Share(GroupedBatches(ROWS, 2, 2, seed=1), rank, 2) for rank in range(2)]
    for share in shares:
        share.set_epoch(1)
    whole = GroupedBatches(ROWS, 2, 2, seed=1)
    whole.set_epoch(1)
    assert [batch for both in zip(*shares, strict=True) for batch in both] == list(whole)
    assert [len(share) for share in shares] == [3, 3]


def test_fewer_batches_than_processes_are_refused():
    with pytest.raises(TrainingError, match="1 batches of 64 are too few for 2 processes"):
        _Share(GroupedBatches(ROWS, 64, 8, seed=1), 0, 2)


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return build_tower(str(make_tiny_bert(tmp_path_factory.mktemp("bert"))))


def related_in(batch):
    return relate(*(batch[f"label_{name}"] for name in ("queries", "documents", "positives", "known"))).tolist()


def test_collated_pairs_are_sorted_by_length_and_cut(tower):
    pairs = pairs_of(("aa bb cc dd", "xx yy zz", 0), ("ee", "xx yy zz", 0), ("fff", "vv", 1))
    collate = PairCollator(tower, tower, TextSpec(max_tokens=5), TextSpec(max_tokens=4), pairs, Related.of(pairs))
    batch = collate([{"index": 0}, {"index": 1}, {"index": 2}])
    assert batch["query_attention_mask"].sum(dim=1).tolist() == [4, 5, 5]
    assert batch["document_attention_mask"].sum(dim=1).tolist() == [4, 4]
    assert related_in(batch) == [[NEGATIVE, POSITIVE], [POSITIVE, NEGATIVE], [NEGATIVE, POSITIVE]]


def test_hard_negatives_come_with_the_documents_whose_queries_found_them(tower):
    pairs = pairs_of(("a", "x", 0), ("b", "yy", 1))
    negatives = Negatives(1, seed=0, candidates={"a": np.array([2]), "b": np.array([0])})
    related = Related.of(pairs, {0: "x", 1: "yy", 2: "zzz"})
    collate = PairCollator(tower, tower, TextSpec(max_tokens=5), TextSpec(max_tokens=6), pairs, related, negatives)
    batch = collate([{"index": 0}, {"index": 1}])
    assert [related.texts[number] for number in batch["label_documents"]] == ["x", "yy", "zzz"]
    assert related_in(batch) == [
        [POSITIVE, NEGATIVE, NEGATIVE],
        [NEGATIVE, POSITIVE, NEGATIVE],
    ]


def test_collated_texts_carry_their_own_vectors(tower):
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    batch = TextCollator(tower, TextSpec(max_tokens=5), ["a", "b", "c"], vectors)([{"index": 2}, {"index": 0}])
    assert batch["label"].tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert batch["text_input_ids"].shape == (2, 3)


def test_a_sample_of_the_pairs_still_knows_every_positive() -> None:
    pairs = Pairs(["q", "q", "other"], ["x", "y", "z"], np.array([0, 1, 2]))
    for seed in range(5):
        assert pairs.sample(2, seed).positives() == {"q": frozenset({0, 1}), "other": frozenset({2})}
