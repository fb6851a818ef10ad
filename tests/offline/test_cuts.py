import pyarrow as pa
import pytest
from make_findings import findings
from tiny_models import make_tiny_bert, make_tiny_qwen

from offline.config import TextConfig, TrainConfig
from offline.cuts import count_cuts
from offline.data.prepared import QUERIES, TEXTS, TOWER_TEXTS, Prepared, write_table
from offline.recipe import Recipe
from offline.report import page
from offline.towers import build_tower
from snapshot.manifest import TextSpec

READ = TextSpec(template="{text}", max_tokens=8)
FITS, TOO_LONG = "abcdef", "abcdefg"  # a token a letter; with [CLS] and [SEP] 8 and 9


@pytest.fixture
def cuts(tmp_path):
    make_tiny_bert(tmp_path / "bert")
    tower = build_tower(str(tmp_path / "bert"))
    recipe = Recipe(name="cut", train=TrainConfig(backbone=str(tmp_path / "bert")), text=TextConfig(query=READ, document=READ))

    def count(documents, queries, tower=tower):
        columns = [pa.array(column) for column in ([""] * len(documents), documents)]
        write_table(pa.table(columns, schema=TOWER_TEXTS), tmp_path / "tower_texts.arrow")
        rows = {"id": [str(i) for i in range(len(queries))], "text": queries, "split": ["test"] * len(queries)}
        write_table(pa.table(rows, schema=QUERIES), tmp_path / "queries.arrow")
        write_table(pa.table({"text": [], "source": []}, schema=TEXTS), tmp_path / "texts.arrow")
        return count_cuts(Prepared(tmp_path), recipe, tower, tower)

    return count


def test_a_text_is_cut_when_its_tokens_are_more_than_are_read(cuts):
    documents, queries = cuts([FITS, TOO_LONG, TOO_LONG + "h", FITS], [FITS, "one"])
    assert (documents.texts, documents.sample, documents.cut) == ("documents", 4, 2)
    assert (queries.texts, queries.sample, queries.cut) == ("queries", 2, 0)


def test_of_many_a_sample_is_counted_and_of_a_long_one_its_head(cuts):
    documents, queries = cuts([FITS, "ab cd " * 20_000] * 1_500, [])
    assert (documents.sample, documents.cut) == (2_000, 1_000)
    assert (queries.sample, queries.share) == (0, 0.0)


def test_it_says_how_many_and_by_which_setting(cuts):
    documents, queries = cuts([FITS, TOO_LONG], [TOO_LONG])
    said = "50.0% of 2 documents are longer than the 8 tokens that are read of each (text.document.max_tokens)"
    assert documents.describe() == said
    assert "text.query.max_tokens" in queries.describe()


def test_it_says_how_much_the_tokenizer_does_not_know(cuts, tmp_path):
    documents, queries = cuts(["ab 東京", "茶"], ["abc"])
    assert (documents.tokens, documents.unknown) == (5, 3)
    assert (queries.tokens, queries.unknown_share) == (3, 0.0)
    assert documents.describe_unknown().startswith("60.0% of the tokens of 2 documents are unknown")
    text = page(findings(cuts=(documents, queries)))
    assert text.count("- unknown: ") == 1
    make_tiny_qwen(tmp_path / "qwen")
    by_bytes = build_tower(str(tmp_path / "qwen"))
    assert cuts(["東京"], ["茶"], by_bytes)[0].unknown == 0
