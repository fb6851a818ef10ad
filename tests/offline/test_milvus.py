"""The stage ``index`` on a Milvus server, killed and gone on, named when published; and what it says where there is none."""

from __future__ import annotations

import codecs
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

from make_snapshot import documents_table, make_oracle
from milvus_servers import free_port, make_milvus_snapshot, shared_lite
from typer.testing import CliRunner

from offline.__main__ import app
from offline.config import IndexConfig
from offline.config_milvus import MilvusConfig
from offline.data.prepared import write_table
from offline.errors import DataError, MilvusError, ParentError, RecipeError
from offline.index import STAGE, load_description, run
from offline.milvus import Content, _secrets, connected, name_collection
from offline.parent import Parent
from offline.publish import COLLECTION
from offline.recipe import Recipe
from offline.served import open_served
from offline.stages import Source
from snapshot.collection import ROW, STORED, fields_of, sampled_rows
from snapshot.manifest import MilvusIndex, collection_name, read_manifest
from snapshot.verify import verify
from tests.offline.test_index import make_job

ROWS = 120


def job_of(tmp_path, uri, **milvus):
    *_, job = make_job(tmp_path, ROWS)
    write_table(documents_table(make_oracle(ROWS).texts), job.inputs["prepare"] / "documents.arrow")
    config = MilvusConfig(uri=uri, effort_queries=20, **milvus)
    recipe = job.recipe.model_copy(update={"index": IndexConfig(kind="milvus"), "milvus": config})
    return replace(job, recipe=recipe)


def mark(client, collection):
    """Change a row, by which the collection can be told from one that is written anew; milvus-lite gives all the same id."""
    [row] = client.query(collection, filter=f"{ROW} == 7", output_fields=["*"])
    client.upsert(collection, [{**row, STORED: {"text": "marked"}}])


def is_marked(client, collection):
    [row] = client.query(collection, filter=f"{ROW} == 7", output_fields=["*"], consistency_level="Strong")
    return row[STORED] == {"text": "marked"}


def test_the_stage_writes_measures_and_goes_on_after_a_kill(tmp_path):
    job, oracle = job_of(tmp_path, shared_lite().uri), make_oracle(ROWS)
    with connected(job.recipe.milvus) as client:
        content = Content(oracle.documents, documents_table(oracle.texts), stored=True)
        client.create_collection(content.building, dimension=4)  # what a killed run may have left
    (job.folder / "written").write_text(f"{content.building}\n")
    summary = run(job)
    described = load_description(job.folder)
    assert isinstance(described, MilvusIndex)
    assert (summary["kind"], summary["rows"], described.rows) == ("milvus", ROWS, ROWS)
    assert described.collection == content.building
    assert described.efforts[-1].effort == described.nlist
    assert described.efforts[-1].recall_at_10 == 1.0
    assert described.fields == fields_of(content.columns, 16)
    served = open_served(job.folder, job.recipe)
    queries = oracle.encode(["apple bread", "zinc"])
    assert (served.d, served.ntotal) == (16, ROWS)
    found = served.search(queries, 10)
    shares = [len(set(ours) & set(best)) / 10 for ours, best in zip(found, oracle.rows(["apple bread", "zinc"], 10), strict=True)]
    assert np.mean(shares) >= 0.9
    with connected(job.recipe.milvus) as client:
        [row] = client.query(described.collection, filter=f"{ROW} == 7", output_fields=["*"])
        mark(client, described.collection)
    assert (row["id"], row[STORED], row["c2"], row["h3"]) == ("doc-7", {"text": oracle.texts[7]}, 7, False)
    run(job)
    with connected(job.recipe.milvus) as client:
        assert is_marked(client, described.collection), "it was whole, and is taken"


def test_two_runs_of_one_recipe_leave_each_other_alone(tmp_path):
    job = job_of(tmp_path, shared_lite().uri)
    run(job)
    collection = load_description(job.folder).collection
    with connected(job.recipe.milvus) as client:
        mark(client, collection)
    other = replace(job, folder=tmp_path / "other")
    other.folder.mkdir()
    run(other)
    with connected(job.recipe.milvus) as client:
        assert is_marked(client, collection)
        assert not is_marked(client, load_description(other.folder).collection)


def test_its_inputs_name_the_server_only_where_it_is_used():
    source = Source()
    assert STAGE.outside(Recipe(name="r"), source) == {}
    recipe = Recipe(name="r", index=IndexConfig(kind="milvus"))
    assert STAGE.outside(recipe, source)["milvus"]["uri"] == "http://127.0.0.1:19530"


def test_publishing_names_the_collection_moves_the_alias_and_may_be_repeated(tmp_path):
    uri = shared_lite().uri
    config = MilvusConfig(uri=uri, alias="newest")
    for seed in (21, 22):
        layout = make_milvus_snapshot(tmp_path, uri, 50, seed=seed, publish=False)
        manifest = verify(layout.root)  # no file of an index is missed
        assert manifest.index.collection == collection_name(manifest.id)
        building = (tmp_path / COLLECTION).read_text()
        for _ in range(2):
            name_collection(manifest, config, building)
        with connected(config) as client:
            assert client.has_collection(manifest.index.collection)
            assert client.list_aliases(manifest.index.collection)["aliases"] == ["newest"]
    with connected(config) as client:
        client.drop_collection(manifest.index.collection)
    with pytest.raises(MilvusError, match=r"snapshot_\w+: not on the server: .*`python -m offline run` writes"):
        name_collection(manifest, config, building)


@pytest.mark.parametrize("spoil", ["deleted", "changed"])
def test_a_collection_that_is_not_what_was_sealed_is_not_published(tmp_path, spoil):
    uri = shared_lite().uri
    layout = make_milvus_snapshot(tmp_path, uri, 50, seed=24, publish=False)
    building = (tmp_path / COLLECTION).read_text()
    with connected(MilvusConfig(uri=uri)) as client:
        [row] = client.query(building, filter=f"{ROW} == 7", output_fields=["*"])
        client.upsert(building, [{**row, "c2": 70_000}]) if spoil == "changed" else client.delete(building, filter=f"{ROW} == 7")
    with pytest.raises(MilvusError, match=r"(49|50) rows, 50 were written, or they were changed since: nothing is"):
        name_collection(verify(layout.root), MilvusConfig(uri=uri), building)


def test_a_parent_whose_vectors_are_in_milvus_is_refused_by_name(tmp_path):
    layout = make_milvus_snapshot(tmp_path, shared_lite().uri, 50, seed=23)
    with pytest.raises(ParentError, match="on a Milvus server and are not read back"):
        Parent(layout).vectors(np.arange(3))
    assert read_manifest(layout.manifest).index.kind == "milvus"


def test_a_server_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(MilvusError, match=r"http://127\.0\.0\.1:\d+: .*milvus\.uri"):
        run(job_of(tmp_path, f"http://127.0.0.1:{free_port()}", timeout_seconds=2.0))


@pytest.mark.parametrize("library", [True, False], ids=["no server", "no library"])
def test_a_run_asks_for_the_server_before_the_long_work(tmp_path, monkeypatch, library):
    (tmp_path / "toy.toml").write_text('name = "toy"\nindex.kind = "milvus"\n')
    if not library:
        monkeypatch.setitem(sys.modules, "pymilvus", None)
    changed = ["--set", f"milvus.uri=http://127.0.0.1:{free_port()}"]
    ended = CliRunner().invoke(app, ["run", str(tmp_path / "toy.toml"), "--out", str(tmp_path / "work"), *changed])
    assert isinstance(ended.exception, MilvusError if library else RecipeError)
    assert ("is this the address of a Milvus server" if library else "needs the extra milvus") in str(ended.exception)
    assert not (tmp_path / "work").exists()


def test_a_token_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"milvus\.token_file: nowhere: cannot be read"):
        run(job_of(tmp_path, shared_lite().uri, token_file="nowhere"))


def test_a_token_file_may_begin_with_the_mark_of_a_windows_editor(tmp_path):
    (tmp_path / "token").write_bytes(codecs.BOM_UTF8 + b"user:secret\r\n")
    assert _secrets(MilvusConfig(token_file=str(tmp_path / "token")))["token"] == "user:secret"


@pytest.mark.parametrize(
    ("ca_file", "error", "says"),
    [
        (None, MilvusError, r"is it running, and do milvus\.ca_file and milvus\.token_file fit"),
        ("nowhere", RecipeError, r"milvus\.ca_file: nowhere: cannot be read"),
        (__file__, RecipeError, r"milvus\.ca_file: .*: is no PEM"),
    ],
)
def test_what_is_wrong_with_tls_leads_to_the_setting(ca_file, error, says):
    uri = shared_lite().uri.replace("http://127.0.0.1", "https://localhost")  # no TLS; pymilvus shares connections by address
    with pytest.raises(error, match=says), connected(MilvusConfig(uri=uri, ca_file=ca_file, timeout_seconds=5.0)):
        raise AssertionError("connected")


def test_an_ipv6_address_is_refused_by_name():
    with (
        pytest.raises(RecipeError, match=r"http://\[::1\]:19530: pymilvus takes no IPv6 address; name a host"),
        connected(MilvusConfig(uri="http://[::1]:19530")),
    ):
        raise AssertionError("connected")


def test_a_value_that_milvus_cannot_hold_is_named():
    table = pa.table({"id": ["a", "x" * 70_000]})
    with pytest.raises(DataError, match="id of row 1 has 70000 bytes, Milvus holds 65535"):
        Content(np.eye(2, 4, dtype=np.float32), table, stored=True)


@pytest.mark.parametrize("count", [1, 2, 256, 257, 100_000])
def test_the_sample_has_both_ends_and_no_row_twice(count):
    rows = sampled_rows(count)
    assert len(np.unique(rows)) == len(rows) == min(count, 256)
    assert (rows[0], rows[-1]) == (0, count - 1)


def test_another_row_id_value_or_number_of_rows_is_another_fingerprint():
    oracle = make_oracle(ROWS)
    table = documents_table(oracle.texts)

    def made(vectors, documents):
        return Content(vectors, documents, stored=False).fingerprint

    whole = made(oracle.documents, table)
    assert made(oracle.documents.copy(), table) == whole
    moved = oracle.documents.copy()
    moved[5, 3] = np.nextafter(moved[5, 3], 1)
    renamed = table.set_column(0, "id", pa.array([f"other-{row}" for row in range(ROWS)]))
    repriced = table.set_column(3, table.schema.field(3), pa.array([row + (row == 9) for row in range(ROWS)]))
    others = [made(moved, table), made(oracle.documents, renamed), made(oracle.documents, repriced)]
    others.append(made(oracle.documents[:-1], table.slice(0, ROWS - 1)))
    assert len({whole, *others}) == 5
