import pyarrow as pa
import pytest

from offline.data.prepared import QUERIES, TEXTS, Prepared, write_table
from offline.probes import probe_queries


@pytest.fixture
def prepared(tmp_path):
    splits = ["test"] * 10 + ["dev"] * 4 + ["train"] * 6
    queries = {"id": [str(i) for i in range(20)], "text": [f"{split} {i}" for i, split in enumerate(splits)], "split": splits}
    texts = [*queries["text"][14:], " ", *(f"title {i}" for i in range(100))]
    write_table(pa.table(queries, schema=QUERIES), tmp_path / "queries.arrow")
    write_table(pa.table({"text": texts, "source": ["title"] * len(texts)}, schema=TEXTS), tmp_path / "texts.arrow")
    return Prepared(tmp_path)


def test_dev_comes_first_then_test_then_train_then_unlabelled_texts(prepared):
    first_words = [text.split()[0] for text in probe_queries(prepared, 30)]
    assert first_words == ["dev"] * 4 + ["test"] * 10 + ["train"] * 6 + ["title"] * 10


def test_what_is_taken_of_a_source_is_spread_over_it(prepared):
    assert probe_queries(prepared, 9)[4:] == ["test 0", "test 2", "test 4", "test 6", "test 8"]


def test_probes_are_different_and_not_blank(prepared):
    probes = probe_queries(prepared, 1000)
    assert len(probes) == len(set(probes)) == 120
    assert all(probe.strip() for probe in probes)
