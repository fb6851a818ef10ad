import json

import numpy as np
import pyarrow as pa
import pytest
from tiny_models import make_tiny_bert, make_tiny_qwen
from tiny_training import QUERY, TEXTS, curve_of, make_job, run, vectors_of
from tiny_work import make_prepared

from offline import dev_search, stage_one
from offline.config import TextConfig, TrainConfig
from offline.data.prepared import PAIRS, QRELS, TOWER_TEXTS, Prepared, write_table
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


def test_training_brings_queries_and_their_documents_together(tmp_path, monkeypatch):
    monkeypatch.setattr(dev_search, "_MOST", 20)  # so little data has few to spare
    run(tmp_path, "train", train={"epochs": 0})
    before = own_document_first(tmp_path)
    (tmp_path / "train" / "training.json").unlink()
    summary = run(tmp_path, "train", train={"epochs": 12, "learning_rate": 3e-3})
    assert summary["pairs"] == 57, "three queries are held out"
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
    make_prepared(tmp_path / "prepare", rows=16, splits=())  # too few to hold any out: the last weights are kept
    make_tiny_bert(tmp_path / "bert")
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
    pairs = stage_one.load_pairs(prepared, text, TrainConfig(max_pairs=7))
    assert len(pairs) == 7
    for query, document, row in zip(pairs.queries, pairs.documents, pairs.rows, strict=True):
        assert query == f"query: {prepared.pairs['query'][row]}"
        assert document == str(prepared.pairs["text"][row]).lower()


def test_pairs_know_the_documents_that_are_their_queries(tmp_path):
    prepared = Prepared(make_prepared(tmp_path))
    queries, towers = prepared.pairs["query"].to_pylist(), prepared.tower_texts.to_pylist()
    towers[5]["title"], towers[7]["text"] = f" {queries[3].upper()}.", queries[4]
    write_table(pa.Table.from_pylist(towers, TOWER_TEXTS), tmp_path / "tower_texts.arrow")
    text = TextConfig(query=TextSpec(template="query: {text}"))
    pairs = stage_one.load_pairs(Prepared(tmp_path), text, TrainConfig(max_pairs=50))
    assert pairs.spared == {f"query: {queries[3]}": frozenset({5}), f"query: {queries[4]}": frozenset({7})}


def test_pairs_know_the_documents_that_answer_in_part(tmp_path):
    prepared = Prepared(make_prepared(tmp_path))
    name, text = next((query["id"], query["text"]) for query in prepared.queries.to_pylist() if query["split"] == "train")
    graded = [("train", 9, 2), ("train", 10, 0), ("train", 11, 1), ("train", 12, 1), ("dev", 13, 1)]
    judged = [
        {"split": split, "query_id": name if split == "train" else "x", "row": row, "score": score}
        for split, row, score in graded
    ]
    write_table(pa.Table.from_pylist(judged, QRELS), tmp_path / "qrels.arrow")
    assert stage_one.load_pairs(Prepared(tmp_path), TextConfig(), TrainConfig(), relevance=2).spared == {
        text: frozenset({11, 12})
    }
    assert stage_one.load_pairs(Prepared(tmp_path), TextConfig(), TrainConfig()).spared == {}


@pytest.mark.parametrize(
    ("splits", "relevance", "remedy"),
    [
        (("test",), 1, r"Add qrels/train\.tsv, or documents"),
        (("train", "test"), 2, r"data\.relevance, 2: the highest score .* is 1"),
        (("train", "test"), 1, r"Add to qrels/train\.tsv queries about other documents"),
    ],
)
def test_without_pairs_there_is_a_remedy(tmp_path, splits, relevance, remedy):
    write_pairs(tmp_path)
    qrels = Prepared(make_prepared(tmp_path / "other", splits=splits)).folder / "qrels.arrow"
    qrels.rename(tmp_path / "prepare" / "qrels.arrow")
    with pytest.raises(TrainingError, match=rf"0 training pairs .*{remedy}.* train\.epochs = 0"):
        stage_one.load_pairs(Prepared(tmp_path / "prepare"), TextConfig(), TrainConfig(), relevance)


def test_with_a_train_split_that_gives_no_pairs_training_ends(tmp_path):
    write_pairs(tmp_path)
    with pytest.raises(TrainingError, match="0 training pairs"):
        run(tmp_path, "train")


def test_without_anything_to_learn_from_the_backbone_stays_untouched(tmp_path, capsys):
    write_pairs(tmp_path)
    qrels = Prepared(make_prepared(tmp_path / "other", splits=("dev", "test"))).folder / "qrels.arrow"
    qrels.rename(tmp_path / "prepare" / "qrels.arrow")
    assert run(tmp_path, "train")["pairs"] == 0
    untouched = encode(build_tower(str(tmp_path / "bert")), QUERY, TEXTS)
    np.testing.assert_allclose(vectors_of(tmp_path / "train" / "query_tower"), untouched, atol=1e-6)
    assert "nothing to train on: no train split" in capsys.readouterr().err


def test_one_document_cannot_be_contrasted(tmp_path):
    write_pairs(tmp_path, ("a", "t", "x", 0), ("b", "t", "x", 0))
    with pytest.raises(TrainingError, match="2 training pairs with 1 different documents"):
        run(tmp_path, "train")


def test_texts_longer_than_the_backbone_reads_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"text\.document\.max_tokens is 129"):
        run(tmp_path, "train", text={"document": {"max_tokens": 129}})


def test_the_second_tower_does_not_share_weights_with_the_first(tmp_path):
    make_tiny_bert(tmp_path / "bert")
    towers = stage_one.make_towers(make_job(tmp_path, "train").recipe)
    shared = {p.data_ptr() for p in towers[0].parameters()} & {p.data_ptr() for p in towers[1].parameters()}
    assert not shared


def test_tied_towers_share_their_weights_and_end_equal(tmp_path):
    summary = run(tmp_path, "train", train={"tied": True, "learning_rate": 3e-3, "epochs": 6})
    query, document = (vectors_of(tmp_path / "train" / name) for name in ("query_tower", "document_tower"))
    np.testing.assert_array_equal(query, document)
    assert summary["best_epoch"] > 0


def test_the_dev_curve_begins_with_the_untouched_backbone_and_the_best_is_kept(tmp_path):
    summary = run(tmp_path, "train", train={"learning_rate": 3e-3, "epochs": 4})
    curve = curve_of(tmp_path / "train")
    assert [point["step"] for point in curve] == [0, 7, 14, 21, 28][: len(curve)]
    assert summary["dev_ndcg"] == max(point["ndcg"] for point in curve)
    assert summary["dev_ndcg"] >= curve[0]["ndcg"]


def test_a_training_that_only_harms_ends_early_with_the_untouched_backbone(tmp_path):
    summary = run(tmp_path, "train", train={"learning_rate": 0.5, "epochs": 9, "ema": None, "negatives": {"per_document": 0}})
    assert summary["best_epoch"] == 0
    assert [point["step"] for point in curve_of(tmp_path / "train")] == [0, 7, 14]  # patience is 2
    expected = encode(build_tower(str(tmp_path / "bert")), SPEC, ["one two three", "four", "five six seven eight"])
    np.testing.assert_allclose(vectors_of(tmp_path / "train" / "query_tower"), expected, atol=1e-6)


def test_without_a_dev_split_all_queries_of_some_documents_are_held_out(tmp_path):
    make_prepared(tmp_path / "prepare", splits=())
    make_tiny_bert(tmp_path / "bert")
    summary = run(tmp_path, "train")
    assert summary["pairs"] == 54
    assert json.loads((tmp_path / "train" / "training.json").read_text())["dev_queries"] == "6 held-out"


def test_mixtures_with_the_untouched_weights_are_measured_and_the_best_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(dev_search, "_MOST", 20)  # by more queries these towers are best untouched
    summary = run(tmp_path, "train", train={"learning_rate": 3e-3, "epochs": 3, "dev": {"shares": [0.25, 0.75]}})
    told = json.loads((tmp_path / "train" / "training.json").read_text())
    assert [each["share"] for each in told["dev_mixtures"]] == [0.25, 0.75]
    assert summary["dev_ndcg"] == max(each["ndcg"] for each in [*told["dev_curve"], *told["dev_mixtures"]])


def test_mined_negatives_are_written_down_every_so_many_epochs(tmp_path):
    negatives = {"per_document": 1, "refresh_epochs": 2, "depth": 5, "sources": ["bm25", "towers"]}
    run(tmp_path, "train", train={"epochs": 3, "negatives": negatives, "dev": {"patience": None}})
    assert sorted(path.name for path in (tmp_path / "train" / "negatives").iterdir()) == ["000.parquet", "002.parquet"]


def test_negatives_that_are_all_false_end_the_training_by_name(tmp_path):
    with pytest.raises(TrainingError, match=r"hard negatives: all .* false negatives.*per_document = 0"):
        run(tmp_path, "train", train={"negatives": {"per_document": 1, "guard": 1e-6}})


def test_without_negatives_nothing_is_mined(tmp_path):
    run(tmp_path, "train", train={"negatives": {"per_document": 0}})
    assert not (tmp_path / "train" / "negatives").exists()


def test_all_options_of_the_loss_go_together(tmp_path):
    options = {"symmetric": True, "learn_temperature": True, "margin": 0.05, "in_batch_guard": 0.98, "matryoshka": [8, 16]}
    summary = run(tmp_path, "train", train={**options, "mini_batch_size": 3, "dropout": 0.2, "weight_decay": 0.01})
    assert np.isfinite(summary["final_loss"])


def test_a_matryoshka_width_above_the_whole_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"train\.matryoshka: 32 is not below the width of the backbone's vectors, 32"):
        run(tmp_path, "train", train={"matryoshka": [8, 32]})


def test_what_is_measured_beside_the_training_is_what_is_measured_in_its_way(tmp_path):
    for name, beside in (("in-its-way", False), ("beside", True)):
        (tmp_path / name).mkdir()
        run(tmp_path / name, "train", train={"learning_rate": 3e-3, "epochs": 3, "dev": {"beside": beside, "patience": None}})
    assert curve_of(tmp_path / "in-its-way" / "train") == curve_of(tmp_path / "beside" / "train")
    expected, found = (vectors_of(tmp_path / name / "train" / "query_tower") for name in ("in-its-way", "beside"))
    np.testing.assert_array_equal(found, expected)
