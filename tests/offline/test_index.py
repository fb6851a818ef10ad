"""The stage on a toy tower, and the kinds against numpy."""

import json

import faiss
import numpy as np
import pyarrow as pa
import pytest
from make_snapshot import fingerprint, make_oracle, write_tower

from offline.config import IndexConfig
from offline.data.prepared import QUERIES, TEXTS, write_table
from offline.efforts import open_index, search_as_served
from offline.errors import RecipeError
from offline.index import build, choose, load_description, run, sizes_of
from offline.recipe import Recipe
from offline.stages import Job, Source
from snapshot.layout import Layout
from snapshot.manifest import TextSpec


def make_job(tmp_path, rows, **index):
    oracle = make_oracle(rows)
    folders = {name: tmp_path / name for name in ("prepare", "encode", "export", "index")}
    (folders["encode"] / "shards").mkdir(parents=True)
    folders["export"].mkdir()
    folders["index"].mkdir(exist_ok=True)
    half = rows // 2
    np.save(folders["encode"] / "shards" / "00000.npy", oracle.documents[:half])
    np.save(folders["encode"] / "shards" / "00001.npy", oracle.documents[half:])
    queries = [" ".join(text.split()[:3]) for text in oracle.texts]
    table = {"id": list(map(str, range(rows))), "text": queries, "split": ["test"] * rows}
    write_table(pa.table(table, schema=QUERIES), folders["prepare"] / "queries.arrow")
    write_table(pa.table({"text": [], "source": []}, schema=TEXTS), folders["prepare"] / "texts.arrow")
    tower = Layout(tmp_path / "tower")
    write_tower(tower, oracle.table, fingerprint(0))
    tower.model.rename(folders["export"] / "model.onnx")
    tower.tokenizer.rename(folders["export"] / "tokenizer.json")
    report = {
        "name": "fp32",
        "precision": "fp32",
        "reason": "",
        "trials": [],
        "layers": 0,
        "parameters": 0,
        "pad_token_id": 0,
        "dim": 16,
    }
    (folders["export"] / "export.json").write_text(json.dumps(report))
    recipe = Recipe(name="toy", index=IndexConfig(**index))
    recipe = recipe.model_copy(update={"text": recipe.text.model_copy(update={"query": TextSpec(max_tokens=12)})})
    return oracle, queries, Job(recipe, Source(), folders.pop("index"), folders)


@pytest.mark.parametrize(("kind", "rows"), [("flat", 400), ("hnsw", 400), ("ivfpq", 400), ("flat", 2), ("hnsw", 5), ("hnsw", 2)])
def test_the_index_finds_what_numpy_finds(kind, rows, tmp_path):
    oracle, queries, job = make_job(tmp_path, rows, kind=kind, recall_target=0.95)
    run(job)
    described = load_description(job.folder)
    assert described.kind == kind
    chosen = next(row for row in described.efforts if row.effort == described.default_effort)
    assert chosen.recall_at_10 >= 0.95
    index = open_index(job.folder / "index.faiss")
    assert (index.ntotal, index.d) == (rows, 16)
    found = search_as_served(index, described, oracle.encode(queries), 10)
    best = oracle.rows(queries, 10)
    assert np.mean([len(set(ours) & set(theirs)) / len(theirs) for ours, theirs in zip(found, best, strict=True)]) > 0.9


def test_row_i_of_the_index_is_row_i_of_the_vectors(tmp_path):
    oracle, _, job = make_job(tmp_path, 300, kind="hnsw")
    run(job)
    index = faiss.read_index(str(job.folder / "index.faiss"))
    assert np.array_equal(index.reconstruct_n(0, 300), oracle.documents)


def test_a_finished_index_of_a_killed_run_is_kept(tmp_path):
    _, _, job = make_job(tmp_path, 300, kind="hnsw")
    run(job)
    (job.folder / "index.json").unlink()
    before = (job.folder / "index.faiss").stat().st_ino
    run(job)
    assert (job.folder / "index.faiss").stat().st_ino == before
    assert load_description(job.folder).kind == "hnsw"


@pytest.mark.parametrize(
    ("rows", "kind"), [(1, "flat"), (10_000, "flat"), (10_001, "hnsw"), (5_000_000, "hnsw"), (5_000_001, "ivfpq")]
)
def test_the_kind_follows_the_size(rows, kind):
    chosen, why = choose(IndexConfig(), rows)
    assert chosen == kind
    assert str(rows) in why


def test_the_recipe_can_insist():
    assert choose(IndexConfig(kind="hnsw"), 5) == ("hnsw", "hnsw: the recipe asks for it")


def test_ivfpq_on_too_few_rows_is_refused_with_the_remedy():
    with pytest.raises(RecipeError, match="255; use flat or hnsw"):
        choose(IndexConfig(kind="ivfpq"), 255)


@pytest.mark.parametrize(("rows", "dim"), [(256, 16), (300, 7), (5000, 384), (256, 3)])
def test_ivfpq_fits_its_lists_and_codes_to_the_data(rows, dim):
    sizes = sizes_of("ivfpq", IndexConfig(), rows, dim)
    assert 1 <= sizes["nlist"] <= rows // 39
    assert dim % sizes["pq_bytes"] == 0


def test_the_same_vectors_give_the_same_ivfpq():
    vectors = make_oracle(300).documents
    sizes = sizes_of("ivfpq", IndexConfig(), *vectors.shape)
    one, other = (faiss.serialize_index(build("ivfpq", sizes, vectors)) for _ in range(2))
    assert np.array_equal(one, other)
