import numpy as np
import pyarrow.compute as pc

from offline.data.negatives import Found, Negatives, all_false, choose, passed, read, write

ANGLES = np.deg2rad([0, 10, 20, 40, 80, 90])
DOCUMENTS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)
ROWS = np.arange(6) + 100
ALL = np.arange(6)


def query(degrees):
    return np.array([[np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))]], np.float32)


def found(*places, relevant=(1,)):
    return Found(["q"], [np.array(relevant, np.int64)], [np.array(places, np.int64)])


def rows_of(table):
    return table["row"].to_pylist()


def test_known_positives_and_what_scores_almost_as_high_are_no_negatives():
    table = choose(found(*ALL), query(10), DOCUMENTS, ROWS, share=0.95)
    assert rows_of(table) == [103, 104, 105]  # 0 and 20 degrees have a cosine of 0.985, the positive 1
    np.testing.assert_allclose(table["score"], np.cos(np.deg2rad([30, 70, 80])), atol=1e-6)
    np.testing.assert_allclose(table["positive"], 1.0, atol=1e-6)


def test_only_what_was_found_is_a_candidate_and_each_once():
    assert rows_of(choose(found(4, 3, 4, -1, -1), query(10), DOCUMENTS, ROWS, share=0.95)) == [103, 104]


def test_the_bound_lies_below_a_negative_score_too():
    table = choose(found(*ALL, relevant=(2,)), query(-100), DOCUMENTS, ROWS, share=0.9)
    assert rows_of(table) == [103, 104, 105]  # the positive scores -0.5


def test_a_query_whose_positives_are_not_searched_gets_none():
    both = Found(["a", "b"], [np.zeros(0, np.int64), np.array([1])], [ALL, ALL])
    table = choose(both, np.concatenate([query(10)] * 2), DOCUMENTS, ROWS, share=0.95)
    assert set(table["query"].to_pylist()) == {"b"}


def test_negatives_that_are_all_false_are_an_error_with_a_remedy():
    assert not choose(found(*ALL), query(10), DOCUMENTS, ROWS, share=0.1).num_rows
    said = str(all_false(found(*ALL), 0.1))
    assert said.startswith("hard negatives: all 5 candidates of 1 queries are false negatives")
    assert "guard" in said
    assert "per_document = 0" in said


def test_where_every_document_is_relevant_only_leaving_negatives_out_is_a_remedy():
    said = str(all_false(found(*ALL, relevant=ALL), 0.1))
    assert said.startswith("hard negatives: there are no candidates: whatever the 1 queries find is judged relevant")
    assert said.endswith("Set train.negatives.per_document = 0 to train without them")
    assert "guard" not in said


def test_without_a_guard_all_but_known_positives_are_taken():
    table = choose(found(*ALL), query(10), DOCUMENTS, ROWS, share=None)
    assert rows_of(table) == [100, 102, 103, 104, 105]
    assert passed(table, 0.95)
    assert not passed(table.filter(pc.greater(table["score"], 0.96)), 0.95)
    assert not passed(table.slice(0, 0), 0.95)


def test_what_was_mined_is_written_down(tmp_path):
    table = choose(found(*ALL), query(10), DOCUMENTS, ROWS, share=0.95)
    assert read(tmp_path / "000.parquet") is None
    write(table, tmp_path / "000.parquet")
    assert read(tmp_path / "000.parquet").equals(table)


def test_draws_follow_from_seed_epoch_and_batch():
    negatives = Negatives(2, seed=1, candidates={"a": np.arange(50), "b": np.arange(100, 150)})
    first = negatives.draw([["a"], ["b"], ["unknown"]], 7)
    assert len(first) == 4
    assert sum(first < 100) == 2
    assert negatives.draw([["a"], ["b"], ["unknown"]], 7).tolist() == first.tolist()
    assert negatives.draw([["a"], ["b"]], 8).tolist() != first.tolist()
    negatives.epoch = 1
    assert negatives.draw([["a"], ["b"]], 7).tolist() != first.tolist()


def test_the_candidates_of_each_query_are_its_own():
    negatives = Negatives(1, seed=1)
    both = Found(["a", "b"], [np.array([1]), np.array([4])], [ALL, ALL])
    negatives.use(choose(both, np.concatenate([query(10), query(80)]), DOCUMENTS, ROWS, share=0.95))
    assert {name: rows.tolist() for name, rows in negatives.candidates.items()} == {
        "a": [103, 104, 105],
        "b": [100, 101, 102, 103],
    }
