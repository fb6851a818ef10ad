"""Shards by way of a real S3 server and of a folder; the oracle is the runner that shares the file system."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile

import pytest
from object_stores import BUCKET, moto
from tiny_work import make_prepared, make_towers

from offline import by_store
from offline.by_ray import RayRunner
from offline.by_store import StoreRunner
from offline.config import EncodeConfig
from offline.encode import run
from offline.errors import WorkerError
from offline.ray_config import RayConfig
from offline.recipe import Recipe
from offline.runners import LocalRunner, make_runner
from offline.stages import Job, Source
from snapshot.stores import open_store

ROWS = 60


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    return {"prepare": make_prepared(folder / "prepare", ROWS), "train": make_towers(folder / "train")}


@pytest.fixture(scope="module")
def s3():
    with moto() as server:
        yield server


@pytest.fixture(params=["s3", "folder"])
def url(request, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where a node keeps towers
    by_store._fetched.cache_clear()
    if request.param == "folder":
        (tmp_path / "store").mkdir()
        return (tmp_path / "store").as_uri()
    for name, value in request.getfixturevalue("s3").variables().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}"


def encoded(folder, inputs, runner=None):
    folder.mkdir()
    run(Job(Recipe(name="toy", encode=EncodeConfig(shard_rows=25)), Source(), folder, inputs), runner)
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_comes_back_is_byte_for_byte_what_this_machine_computes(tmp_path, inputs, url):
    local = encoded(tmp_path / "local", inputs)
    assert encoded(tmp_path / "remote", inputs, StoreRunner(LocalRunner(), url)) == local
    kept = list((tmp_path / f"scalingnote-towers-{by_store.os.getuid()}").iterdir())
    assert len(kept) == 1  # the tower came by the store, not from the work folder


def test_what_another_driver_had_done_is_not_done_again(tmp_path, inputs, url, monkeypatch):
    first = encoded(tmp_path / "one", inputs, StoreRunner(LocalRunner(), url))
    monkeypatch.setattr(by_store, "encode_shard", lambda task: pytest.fail("encoded again"))
    monkeypatch.setattr("offline.encode.encode_shard", by_store.encode_shard)
    assert encoded(tmp_path / "two", inputs, StoreRunner(LocalRunner(), url)) == first


@pytest.mark.parametrize("expired", [r"shards/.*\.npy", "towers/.*modules.json", r"(shards|towers)/.*(npy|safetensors)"])
def test_what_the_store_let_expire_is_made_again(tmp_path, inputs, url, expired):
    first = encoded(tmp_path / "one", inputs, StoreRunner(LocalRunner(), url))
    store = open_store(url)
    gone = [key for key in [*store.sizes("shards"), *store.sizes("towers")] if re.fullmatch(expired, key)]
    assert gone
    store._objects.delete(gone)
    by_store._fetched.cache_clear()
    shutil.rmtree(tmp_path / f"scalingnote-towers-{by_store.os.getuid()}")  # another node
    assert encoded(tmp_path / "two", inputs, StoreRunner(LocalRunner(), url)) == first


@pytest.mark.parametrize("damaged", ["npy", "task", "tower"])
def test_what_was_changed_in_the_store_is_never_taken(tmp_path, inputs, url, damaged):
    class Damaging(LocalRunner):
        def run(self, function, tasks):
            for task in tasks:
                store = open_store(url)
                key = {"task": f"shards/{task.key}.task.json", "npy": f"shards/{task.key}.npy"}.get(damaged)
                if damaged == "npy":
                    done = function(task)
                    store.write(key, store.whole(key)[:-1] + b"!")
                    yield task, done
                    continue
                store.write(key or f"towers/{task.fingerprint}/modules.json", b"{}")
                yield task, function(task)

    with pytest.raises(WorkerError, match=r"other content than|not the tower that was put there"):
        encoded(tmp_path / "remote", inputs, StoreRunner(Damaging(), url))


@pytest.mark.parametrize(("content", "reason"), [(b"{", "not JSON"), (b"[]", "not a JSON object"), (b"{}", "other content than")])
def test_a_receipt_that_is_none_is_refused_by_name(tmp_path, inputs, url, content, reason):
    class Garbling(LocalRunner):
        def run(self, function, tasks):
            for task in tasks:
                function(task)
                open_store(url).write(f"shards/{task.key}.json", content)
                yield task, function(task)

    with pytest.raises(WorkerError, match=rf"shards/\w+\.\w+: {reason}"):
        encoded(tmp_path / "remote", inputs, StoreRunner(Garbling(), url))


def test_a_tower_whose_files_would_leave_the_folder_is_refused(tmp_path, inputs, url):
    class Hostile(LocalRunner):
        def run(self, function, tasks):
            for task in tasks:
                open_store(url).write(f"towers/{task.fingerprint}.json", json.dumps({"../evil": "0" * 64}).encode())
                yield task, function(task)

    with pytest.raises(WorkerError, match=r"\.\./evil"):
        encoded(tmp_path / "remote", inputs, StoreRunner(Hostile(), url))
    assert not list(tmp_path.rglob("evil"))


def test_a_store_that_is_not_there_is_named(tmp_path, inputs):
    with pytest.raises(WorkerError, match=r"ray\.store ftp://nowhere"):
        encoded(tmp_path / "remote", inputs, StoreRunner(LocalRunner(), "ftp://nowhere"))


def test_a_folder_is_the_same_one_for_workers_that_run_elsewhere(tmp_path, inputs, monkeypatch):
    class Elsewhere(LocalRunner):
        def run(self, function, tasks):
            def work(task):
                with contextlib.chdir(tmp_path):
                    return function(task)

            return super().run(work, tasks)

    (tmp_path / "here" / "store").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    by_store._fetched.cache_clear()
    monkeypatch.chdir(tmp_path / "here")
    encoded(tmp_path / "remote", inputs, StoreRunner(Elsewhere(), "store"))
    assert list((tmp_path / "here" / "store" / "shards").glob("*.npy"))


def test_it_knows_documents_only():
    with pytest.raises(WorkerError, match="only documents"):
        next(StoreRunner(LocalRunner(), "file:///tmp").run(len, [[]]))


def test_a_recipe_that_names_a_store_uses_it(monkeypatch):
    monkeypatch.setattr("offline.by_ray._import_ray", lambda: None)
    assert isinstance(make_runner("ray", RayConfig(store="s3://bucket/prefix")), StoreRunner)
    assert isinstance(make_runner("ray", RayConfig()), RayRunner)
