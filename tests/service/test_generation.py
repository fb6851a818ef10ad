from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from make_snapshot import fingerprint, make_index, make_oracle, make_snapshot, write_index, write_tower

import service.generation
from service.cores import plan_threads
from service.encoder import Encoder
from service.engines.faiss import FaissEngine
from service.generation import Generation, GenerationOptions, open_generation
from service.loader import generation_options
from service.settings import Settings
from snapshot.errors import (
    CountMismatchError,
    ExtraFileError,
    GoldenMismatchError,
    HashMismatchError,
    ManifestError,
    MissingFileError,
    NewerSchemaError,
    SnapshotError,
    SpaceMismatchError,
)
from snapshot.layout import Layout
from snapshot.seal import Draft

ORACLE = make_oracle()


def load(layout: Layout) -> Generation:
    return open_generation(layout, GenerationOptions(), lambda step: None)


@pytest.fixture
def closed(monkeypatch) -> list[str]:
    """Names of the parts that were closed."""
    names: list[str] = []
    for part in (Encoder, FaissEngine):
        close = part.close
        monkeypatch.setattr(part, "close", lambda self, close=close: (names.append(type(self).__name__), close(self)))
    return names


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivfpq", "sharded"])
def test_an_intact_snapshot_answers_as_the_oracle(tmp_path, kind):
    steps: list[str] = []
    layout = make_snapshot(tmp_path, kind=kind)
    generation = open_generation(layout, GenerationOptions(), steps.append)
    assert steps == ["verifying", "opening", "proving", "warming"]
    assert list(generation.load_seconds) == steps
    assert generation.id == layout.root.name
    vectors = generation.encoder.encode(["Apple bread"])
    rows = generation.engine.search(vectors, 5, generation.manifest.index.default_effort).rows
    np.testing.assert_array_equal(rows, ORACLE.rows(["apple bread"], 5))
    assert generation.documents.fields(rows[0][:1], ["text"]) == [{"text": ORACLE.texts[rows[0][0]]}]


def test_the_proof_carries_the_figures(tmp_path):
    proof = load(make_snapshot(tmp_path)).proof
    assert (proof.queries, proof.k, proof.recall) == (16, 5, 1.0)
    assert proof.max_cosine_distance < 1e-6


def test_closing_twice_closes_once_more_without_harm(tmp_path, closed):
    generation = load(make_snapshot(tmp_path))
    generation.close()
    assert sorted(closed) == ["Encoder", "FaissEngine"]
    generation.close()


def test_a_snapshot_of_one_row_opens(tmp_path):
    assert load(make_snapshot(tmp_path, rows=1)).engine.count == 1


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_manifest(layout: Layout, **changes: object) -> None:
    layout.manifest.write_text(json.dumps(json.loads(layout.manifest.read_text()) | changes))


@pytest.mark.parametrize("name", ["model", "tokenizer", "index", "golden_vectors"])
@pytest.mark.parametrize("damage", [truncate, flip])
def test_changed_bytes_are_refused_before_any_parser_sees_them(tmp_path, monkeypatch, name, damage):
    layout = make_snapshot(tmp_path)
    damage(getattr(layout, name))
    monkeypatch.setattr(service.generation, "Encoder", None)  # a parser that is reached would fail otherwise
    with pytest.raises(HashMismatchError, match=getattr(layout, name).name):
        load(layout)


def test_a_changed_file_of_several_is_refused_before_any_parser_sees_it(tmp_path, monkeypatch):
    layout = make_snapshot(tmp_path, rows=600, kind="sharded")
    flip(layout.index.with_name("part-00001.faiss"))
    monkeypatch.setattr(service.generation, "Encoder", None)  # as above
    with pytest.raises(HashMismatchError, match=r"part-00001\.faiss"):
        load(layout)


def test_several_files_are_proven_again_and_closed_twice(tmp_path):
    generation = load(make_snapshot(tmp_path, rows=600, kind="sharded"))
    assert generation.engine.count == 600
    assert generation.prove().recall >= 0.9
    generation.close()
    generation.close()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_search_of_several_files_uses_the_threads_of_the_plan_and_no_more(tmp_path, threads):
    layout, before = make_snapshot(tmp_path, rows=960, kind="sharded"), set(threading.enumerate())
    options = generation_options(Settings(registry=tmp_path), plan_threads(threads, None, encoder=threads))
    generation = open_generation(layout, replace(options, encoder_threads=1, batching=False), lambda step: None)
    try:
        begun = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("shards")]
        assert len(generation.manifest.index.parts) >= threads
        assert len(begun) == threads - 1  # whoever asks is one of them
    finally:
        generation.close()


def test_a_missing_file_is_refused(tmp_path):
    layout = make_snapshot(tmp_path)
    layout.index.unlink()
    with pytest.raises(MissingFileError, match=r"index\.faiss"):
        load(layout)


def test_an_extra_file_is_refused(tmp_path):
    layout = make_snapshot(tmp_path)
    (layout.documents / "part-00001.arrow").write_bytes(b"more")
    with pytest.raises(ExtraFileError, match=r"part-00001\.arrow"):
        load(layout)


def test_a_newer_schema_is_refused(tmp_path):
    layout = make_snapshot(tmp_path)
    edit_manifest(layout, schema_version=2, unheard_of=True)
    with pytest.raises(NewerSchemaError, match="upgrade the service"):
        load(layout)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    layout = make_snapshot(tmp_path)
    layout.manifest.unlink()
    with pytest.raises(ManifestError, match="no snapshot"):
        load(layout)


def other_space(layout: Layout) -> None:
    write_tower(layout, ORACLE.table, "ab" * 32)


def other_width(layout: Layout) -> None:
    write_tower(layout, make_oracle(dim=8).table, fingerprint(0))


def other_index_width(layout: Layout) -> None:
    write_index(layout, make_index(make_oracle(dim=8).documents, "flat")[0])


def fewer_rows(layout: Layout) -> None:
    write_index(layout, make_index(ORACLE.documents[:-1], "flat")[0])


def other_weights(layout: Layout) -> None:
    write_tower(layout, ORACLE.table + np.float32(0.05), fingerprint(0))


def other_order(layout: Layout) -> None:
    write_index(layout, make_index(ORACLE.documents[::-1], "flat")[0])


def broken_weights(layout: Layout) -> None:
    write_tower(layout, np.full_like(ORACLE.table, np.nan), fingerprint(0))


def broken_golden(layout: Layout) -> None:
    layout.golden_queries.write_text("[")


def pickled_golden(layout: Layout) -> None:
    np.save(layout.golden_rows, np.array([{"a": 1}]), allow_pickle=True)


def short_golden(layout: Layout) -> None:
    np.save(layout.golden_rows, np.load(layout.golden_rows)[:-1])


@pytest.mark.parametrize(
    ("tamper", "error", "message"),
    [
        (other_space, SpaceMismatchError, r"space abababababab, the documents are in space 000000000000"),
        (other_width, SpaceMismatchError, r"model\.onnx: gives vectors of 8 dimensions.* 16"),
        (other_index_width, SpaceMismatchError, r"index\.faiss: vectors of 8 dimensions.* 16"),
        (fewer_rows, CountMismatchError, r"199 rows in the index, 200 documents"),
        (other_weights, GoldenMismatchError, r"cosine distance .* at most 1\.00e-05"),
        (other_order, GoldenMismatchError, r"recall@5 0\.\d+ .* at least 0\.900"),
        (broken_weights, GoldenMismatchError, r"cosine distance nan"),
        (broken_golden, GoldenMismatchError, r"golden: cannot be read"),
        (pickled_golden, GoldenMismatchError, r"golden: cannot be read"),
        (short_golden, CountMismatchError, r"\(15, 5\).*\(16, 5\)"),
    ],
)
def test_what_was_sealed_wrong_is_refused_by_name_and_closed(tmp_path, closed, tamper, error, message):
    layout = make_snapshot(tmp_path, tamper=tamper)
    with pytest.raises(error, match=message):
        load(layout)
    opened = {"other_space": [], "other_width": [], "other_index_width": ["Encoder"]}
    assert sorted(closed) == opened.get(tamper.__name__, ["Encoder", "FaissEngine"])


def test_the_manifest_sets_the_bounds_of_the_proof(tmp_path):
    def lenient(draft: Draft) -> Draft:
        return replace(draft, golden=draft.golden.model_copy(update={"max_cosine_distance": 0.5, "min_recall": 0.5}))

    proof = load(make_snapshot(tmp_path, tamper=other_weights, revise=lenient)).proof
    assert 1e-5 < proof.max_cosine_distance < 0.5


@pytest.mark.parametrize("step", ["verifying", "opening", "proving", "warming"])
def test_giving_up_at_a_step_closes_what_was_opened(tmp_path, closed, step):
    class GaveUpError(Exception):
        pass

    def give_up(entered: str) -> None:
        if entered == step:
            raise GaveUpError

    with pytest.raises(GaveUpError):
        open_generation(make_snapshot(tmp_path), GenerationOptions(), give_up)
    assert sorted(closed) == ([] if step in ("verifying", "opening") else ["Encoder", "FaissEngine"])


def test_every_refusal_has_a_code_of_its_own(tmp_path):
    layout = make_snapshot(tmp_path)
    layout.index.unlink()
    with pytest.raises(SnapshotError) as caught:
        load(layout)
    assert caught.value.code == "file_missing"
