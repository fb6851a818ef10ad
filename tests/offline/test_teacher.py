"""The teacher's query tower in a snapshot; oracles: torch, snapshot.verify, and the service's own encoder."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_work import make_prepared, make_towers, traced

from offline import teacher, towers
from offline.config import PackConfig
from offline.encoded import SPACE
from offline.errors import ParityError
from offline.recipe import Recipe
from offline.stages import Job, Source
from offline.teacher import bring_teacher
from service.encoder import Encoder
from snapshot.layout import Layout
from snapshot.manifest import Space

SPACE_OF_TEST = "ab" * 32


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    inputs = {"prepare": make_prepared(work / "prepare"), "train": make_towers(work / "train"), "encode": work / "encode"}
    inputs["encode"].mkdir()
    dim = towers.tower_dim(towers.load_tower(inputs["train"] / "query_tower"))
    (inputs["encode"] / SPACE).write_text(json.dumps({"fingerprint": SPACE_OF_TEST, "dim": dim}))
    return Job(Recipe(name="toy", pack=PackConfig(teacher=True)), Source(), work / "pack", inputs)


@pytest.fixture(autouse=True)
def traced_once(monkeypatch):
    """The teacher's graph: a trace takes seconds."""
    monkeypatch.setattr(teacher, "to_onnx", traced)


def test_the_service_computes_what_the_teacher_does_in_torch(job, tmp_path):
    layout = Layout(tmp_path)
    described = bring_teacher(job, layout.teacher)
    tower = towers.load_tower(job.inputs["train"] / "query_tower").to("cpu").float()
    assert (described.layers, described.parameters) == (3, towers.count_parameters(tower))
    space = Space(fingerprint=SPACE_OF_TEST, dim=towers.tower_dim(tower))
    encoder = Encoder.open(layout.teacher, described, space, 1)
    queries = ["join two paths", "remove whitespace from both ends", "x"]
    np.testing.assert_allclose(encoder.encode(queries), towers.encode(tower, described.text, queries, 8), atol=1e-5)


def test_it_stays_out_unless_it_is_asked_for(job, tmp_path):
    assert bring_teacher(replace(job, recipe=Recipe(name="toy")), Layout(tmp_path).teacher) is None
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_is_not_the_teacher_is_refused(job, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher.towers, "encode", lambda _tower, _spec, texts, **_: np.eye(len(texts), 32, dtype=np.float32))
    with pytest.raises(ParityError, match=r"not the teacher.*pack\.teacher=false"):
        bring_teacher(job, Layout(tmp_path).teacher)
