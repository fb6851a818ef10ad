import numpy as np
import pyarrow as pa
import pytest
from tiny_models import make_tiny_bert, make_tiny_qwen
from tiny_training import make_job, run, vectors_of
from tiny_work import make_prepared

from offline import train
from offline.config import TextConfig, TrainConfig
from offline.data.prepared import PAIRS, Prepared, write_table
from offline.errors import RecipeError, TrainingError
from offline.towers import build_tower, encode, load_tower
from snapshot.manifest import TextSpec

SPEC = TextSpec(max_tokens=32)
LORA = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0}, "gradient_checkpointing": True}


def own_document_first(work) -> float:
    """Share of the training queries whose own document is the nearest."""
    pairs = Prepared(work / "prepare").pairs
    queries = encode(load_tower(work / "train" / "query_tower"), SPEC, pairs["query"].to_pylist())
    documents = encode(load_tower(work / "train" / "document_tower"), SPEC, pairs["text"].to_pylist())
    return float(np.mean((queries @ documents.T).argmax(axis=1) == np.arange(len(queries))))


def write_pairs(work, *pairs: tuple[str, str, str, int]) -> None:
    make_job(work, "train")
    columns = list(zip(*pairs, strict=True)) or [(), (), (), ()]
    table = pa.table([pa.array(column, kind) for column, kind in zip(columns, PAIRS.types, strict=True)], schema=PAIRS)
    write_table(table, work / "prepare" / "pairs.arrow")


def test_training_brings_queries_and_their_documents_together(tmp_path):
    run(tmp_path, "train", train={"epochs": 0})
    before = own_document_first(tmp_path)
    (tmp_path / "train" / "training.json").unlink()
    summary = run(tmp_path, "train", train={"epochs": 12, "learning_rate": 3e-3})
    assert summary["pairs"] == 60
    assert own_document_first(tmp_path) > before + 0.2


def test_the_towers_are_not_tied(tmp_path):
    run(tmp_path, "train")
    query, document = (vectors_of(tmp_path / "train" / name) for name in ("query_tower", "document_tower"))
    assert not np.allclose(query, document, atol=1e-3)


def test_no_epochs_leave_the_backbone_untouched(tmp_path):
    summary = run(tmp_path, "train", train={"epochs": 0})
    expected = encode(build_tower(str(tmp_path / "bert")), SPEC, ["one two three", "four", "five six seven eight"])
    for name in ("query_tower", "document_tower"):
        np.testing.assert_allclose(vectors_of(tmp_path / "train" / name), expected, atol=1e-6)
    assert summary["pairs"] == 0


@pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"
)  # the name that all of transformers 5 has
@pytest.mark.parametrize("options", [{}, LORA])
def test_a_language_model_is_trained_on_its_last_token(tmp_path, options):
    make_tiny_qwen(tmp_path / "qwen", pad_token=False)
    run(tmp_path, "train", train={"backbone": str(tmp_path / "qwen"), "learning_rate": 1e-2, **options})
    tower = load_tower(tmp_path / "train" / "query_tower")
    assert tower[1].pooling_mode == "lasttoken"
    assert not any("lora" in name for name, _ in tower.named_parameters())
    untouched = encode(build_tower(str(tmp_path / "qwen")), SPEC, ["one two three"])
    assert not np.allclose(encode(tower, SPEC, ["one two three"]), untouched, atol=1e-3)


def test_the_same_seed_gives_the_same_towers(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        run(tmp_path / name, "train")
    first, second = (vectors_of(tmp_path / name / "train" / "query_tower") for name in ("first", "second"))
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_pairs_are_rendered_and_sampled(tmp_path):
    prepared = Prepared(make_prepared(tmp_path))
    text = TextConfig(query=TextSpec(template="query: {text}"), document=TextSpec(template="{title}. {text}", lowercase=True))
    pairs = train.load_pairs(prepared, text, TrainConfig(max_pairs=7))
    assert len(pairs) == 7
    for query, document, row in zip(pairs.queries, pairs.documents, pairs.rows, strict=True):
        assert query == f"query: {prepared.pairs['query'][row]}"
        assert document == str(prepared.pairs["text"][row]).lower()


def test_without_pairs_there_is_a_remedy(tmp_path):
    write_pairs(tmp_path)
    with pytest.raises(TrainingError, match=r"0 training pairs .* qrels/train\.tsv .* train\.epochs = 0"):
        run(tmp_path, "train")


def test_one_document_cannot_be_contrasted(tmp_path):
    write_pairs(tmp_path, ("a", "t", "x", 0), ("b", "t", "x", 0))
    with pytest.raises(TrainingError, match="2 training pairs with 1 different documents"):
        run(tmp_path, "train")


def test_texts_longer_than_the_backbone_reads_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"text\.document\.max_tokens is 129"):
        run(tmp_path, "train", text={"document": {"max_tokens": 129}})


def test_the_second_tower_does_not_share_weights_with_the_first(tmp_path):
    make_tiny_bert(tmp_path / "bert")
    towers = train._towers(make_job(tmp_path, "train").recipe)
    shared = {p.data_ptr() for p in towers[0].parameters()} & {p.data_ptr() for p in towers[1].parameters()}
    assert not shared
