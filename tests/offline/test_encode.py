"""Oracle: sentence-transformers on all documents at once."""

import json
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tiny_work import make_prepared, make_towers

from offline import encode as encode_module
from offline.config import EncodeConfig
from offline.data.prepared import Prepared
from offline.encode import STAGE, encode_shard, run
from offline.encoded import load_space, load_vectors
from offline.errors import EncodingError, StageError
from offline.recipe import Recipe
from offline.runners import LocalRunner
from offline.stages import Job, Source
from snapshot.text import render

ROWS = 60


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    return {"prepare": make_prepared(folder / "prepare", ROWS), "train": make_towers(folder / "train")}


@pytest.fixture
def job(inputs, tmp_path):
    return Job(Recipe(name="toy", encode=EncodeConfig(shard_rows=25)), Source(), tmp_path, inputs)


class Counting(LocalRunner):
    """Says which shards were asked for, and may die on the way."""

    def __init__(self, die_after=None):
        self.numbers = []
        self.die_after = die_after

    def run(self, function, tasks) -> Iterator:
        for task, result in super().run(function, tasks):
            if len(self.numbers) == self.die_after:
                raise KeyboardInterrupt
            self.numbers.append(task.part.number)
            yield task, result


class Elsewhere:
    """As workers of other processes: tasks and results travel as bytes, and come back in another order."""

    def run(self, function, tasks) -> Iterator:
        copies = [pickle.loads(pickle.dumps(task)) for task in tasks]
        for task in reversed(copies):
            yield task, pickle.loads(pickle.dumps(function(task)))


def expected(job):
    spec = job.recipe.text.document
    tower = SentenceTransformer(str(job.inputs["train"] / "document_tower"), device="cpu")
    tower.max_seq_length = spec.max_tokens
    return tower.encode([render(spec, row) for row in Prepared(job.inputs["prepare"]).tower_texts.to_pylist()])


def test_vectors_are_those_of_the_document_tower_in_the_order_of_the_rows(job):
    summary = run(job)
    vectors = load_vectors(job.folder)
    assert vectors.shape == (ROWS, 32)
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, expected(job), atol=1e-5)
    assert (summary["documents"], summary["shards"]) == (ROWS, 3)
    assert load_space(job.folder).dim == 32


def test_the_size_of_shards_changes_nothing(job, inputs, tmp_path):
    run(job)
    other = Job(Recipe(name="toy", encode=EncodeConfig(shard_rows=7)), Source(), tmp_path / "other", inputs)
    other.folder.mkdir()
    run(other)
    assert np.allclose(load_vectors(other.folder), load_vectors(job.folder), atol=1e-6)
    assert load_space(other.folder) == load_space(job.folder)


def test_a_killed_run_repeats_at_most_one_shard(job):
    with pytest.raises(KeyboardInterrupt):
        run(job, Counting(die_after=2))
    again = Counting()
    run(job, again)
    assert again.numbers == [2]
    assert np.allclose(load_vectors(job.folder), expected(job), atol=1e-5)


def test_who_encodes_and_in_which_order_changes_no_byte(job, inputs, tmp_path):
    run(job)
    other = Job(job.recipe, job.source, tmp_path / "other", inputs)
    other.folder.mkdir()
    run(other, Elsewhere())
    for path in (job.folder / "shards").iterdir():
        assert path.read_bytes() == (other.folder / "shards" / path.name).read_bytes()


def test_a_run_goes_on_with_another_runner(job):
    with pytest.raises(KeyboardInterrupt):
        run(job, Counting(die_after=1))
    before = (job.folder / "shards" / "00000.npy").stat().st_ino
    run(job, Elsewhere())
    assert (job.folder / "shards" / "00000.npy").stat().st_ino == before
    assert np.allclose(load_vectors(job.folder), expected(job), atol=1e-5)


def test_the_runner_is_no_part_of_what_the_stage_depends_on():
    assert set(STAGE.sections) == {"text", "encode"}
    assert STAGE.outside(Recipe(name="toy"), Source(runner="ray")) == STAGE.outside(Recipe(name="toy"), Source())


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def take_receipt(path):
    path.with_suffix(".json").unlink()


def tear_receipt(path):
    path.with_suffix(".json").write_text(json.dumps({"number": 1})[:-3])


@pytest.mark.parametrize("damage", [cut, flip, take_receipt, tear_receipt])
def test_a_shard_that_is_not_as_its_receipt_says_is_made_again(damage, job):
    run(job)
    before = load_vectors(job.folder)
    damage(job.folder / "shards" / "00001.npy")
    again = Counting()
    run(job, again)
    assert again.numbers == [1]
    assert np.array_equal(load_vectors(job.folder), before)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_vector_that_cannot_be_searched_names_its_document(value, job, monkeypatch):
    def spoilt(task):
        vectors = encode_shard(task)
        if task.part.number == 1:
            vectors[4] *= value
        return vectors

    monkeypatch.setattr(encode_module, "encode_shard", spoilt)
    with pytest.raises(EncodingError, match="row 29 \\(id 'd29'\\)"):
        run(job)


def test_vectors_before_encode_has_run_name_the_remedy(tmp_path):
    with pytest.raises(StageError, match="run the stage encode first"):
        load_vectors(tmp_path)
