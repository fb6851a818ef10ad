"""The stage on a tiny student, traced once; oracle: the torch tower."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import quantize_dynamic
from tiny_work import make_prepared, make_student, make_towers, trace_student

from offline import encode, export, towers
from offline.candidates import Candidate
from offline.config import EncodeConfig, ExportConfig
from offline.data.prepared import Prepared
from offline.errors import DimensionError, ParityError
from offline.exported import load_report, open_graph
from offline.graph import cosine_distance
from offline.quantize import observe
from offline.recipe import Recipe
from offline.stages import Job, Source

TIGHT = {"max_batch_distance": 1e-12}  # int8 of a tiny random tower is 1e-8 away, that of a trained one 1e-2
LOOSE = {"max_batch_distance": 1.0, "max_int8_ndcg_loss": 1.0}
TEXTS = ["a", "apple bread chair", "join two paths together and remove white space", "zinc"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    inputs = {"prepare": make_prepared(folder / "prepare"), "train": make_towers(folder / "train")}
    inputs |= {"refine": make_student(folder / "refine"), "encode": folder / "encode"}
    inputs["encode"].mkdir()
    encode.run(Job(Recipe(name="toy", encode=EncodeConfig(shard_rows=40)), Source(), inputs["encode"], inputs))
    return inputs


@pytest.fixture
def exported(inputs, tmp_path, monkeypatch):
    """Run the stage with other settings; the trace, which takes seconds, is made once."""
    monkeypatch.setattr(export, "to_onnx", lambda _: onnx.load_from_string(trace_student()))

    def run(**settings):
        export.run(Job(Recipe(name="toy", export=ExportConfig(**settings)), Source(), tmp_path, inputs))
        return tmp_path

    return run


def torch_vectors(inputs, spec):
    return towers.encode(towers.load_tower(inputs["refine"] / "student"), spec, TEXTS, 32)


def test_the_chosen_graph_gives_what_torch_gives(exported, inputs):
    spec = Recipe(name="toy").text.query
    folder = exported(precision="fp32")
    assert cosine_distance(open_graph(folder, spec).encode(TEXTS), torch_vectors(inputs, spec)).max() < 1e-6
    report = load_report(folder)
    assert (report.name, report.precision, report.layers, report.dim) == ("fp32", "fp32", 1, 32)
    (baseline,) = report.trials
    assert [(gate.name, gate.passed) for gate in baseline.gates] == [("parity_distance", True)]
    assert not (folder / "int8-static.onnx").exists()


def test_the_graph_says_which_space_it_is_for(exported, inputs):
    spec = Recipe(name="toy").text.query
    fingerprint = towers.space_fingerprint(inputs["train"] / "document_tower", Recipe(name="toy").text.document)
    folder = exported(**LOOSE)
    names = ("fp32.onnx", "int8-static.onnx", "int8-per-token.onnx", "model.onnx")
    assert [open_graph(folder, spec, name).space for name in names] == [fingerprint] * 4


def test_int8_that_heeds_its_neighbours_gives_way_to_fp32(exported, monkeypatch):
    monkeypatch.setattr(export, "CANDIDATES", (Candidate("int8-dynamic", "int8", one_scale_for_a_batch),))
    folder = exported(min_int8_speedup=0.0, **TIGHT)
    report = load_report(folder)
    failed = {gate.name for gate in report.trials[1].gates if not gate.passed}
    assert "batch_distance" in failed
    assert report.precision == "fp32"
    assert report.reason.startswith("fp32, since no int8 passes (int8-dynamic: 1 - cosine of the same text")
    assert (folder / "model.onnx").read_bytes() == (folder / "fp32.onnx").read_bytes()


def test_int8_by_construction_heeds_no_neighbours(exported):
    report = load_report(exported(max_batch_distance=1e-12, max_int8_ndcg_loss=1.0))
    gates = [gate for trial in report.trials[1:] for gate in trial.gates if gate.name == "batch_distance"]
    assert [gate.passed for gate in gates] == [True, True]


def test_the_fastest_int8_within_its_bounds_is_chosen(exported, inputs, monkeypatch):
    spec = Recipe(name="toy").text.query
    monkeypatch.setattr(export, "measure", lambda graphs, _: dict(zip(graphs, (3.0, 2.0, 1.0), strict=True)))
    folder = exported(**LOOSE)
    report = load_report(folder)
    assert (report.name, report.precision) == ("int8-per-token", "int8")
    assert [trial.speedup for trial in report.trials] == [1.0, 1.5, 3.0]
    assert (folder / "model.onnx").read_bytes() == (folder / "int8-per-token.onnx").read_bytes()
    distances = cosine_distance(open_graph(folder, spec).encode(TEXTS), torch_vectors(inputs, spec))
    assert 1e-9 < distances.max() < 0.05


def test_a_demand_for_int8_that_fails_is_refused(exported, monkeypatch):
    monkeypatch.setattr(export, "CANDIDATES", (Candidate("int8-dynamic", "int8", one_scale_for_a_batch),))
    with pytest.raises(ParityError, match=r"precision is int8, which fails \(.*set it to auto or fp32"):
        exported(precision="int8", **TIGHT)


def test_calibration_reads_the_texts_that_the_student_learned_on(exported, inputs, monkeypatch):
    seen = []
    monkeypatch.setattr(export, "observe", lambda model, feeds: observe(model, map(note(seen), feeds)))
    exported(**LOOSE)
    assert len(seen) == Prepared(inputs["prepare"]).texts.num_rows


def note(seen):
    return lambda feed: seen.append(feed) or feed


def one_scale_for_a_batch(model, _ranges):
    with TemporaryDirectory() as folder:
        fp32, int8 = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, fp32)
        quantize_dynamic(fp32, int8, per_channel=True, extra_options={"MatMulConstBOnly": True})
        return onnx.load(int8)


def test_a_graph_that_is_not_the_student_is_refused(exported, monkeypatch):
    encode_by_torch = towers.encode
    monkeypatch.setattr(towers, "encode", lambda *arguments, **named: encode_by_torch(*arguments, **named) + np.float32(0.01))
    with pytest.raises(ParityError, match="the graph is not the student"):
        exported()


def test_a_student_of_another_width_is_refused(exported, inputs, monkeypatch):
    monkeypatch.setitem(inputs, "encode", inputs["encode"].parent / "wide")
    (inputs["encode"] / "shards").mkdir(parents=True, exist_ok=True)
    (inputs["encode"] / "space.json").write_text(f'{{"fingerprint": "{"0" * 64}", "dim": 48}}')
    with pytest.raises(DimensionError, match="32 dimensions, the documents' have 48"):
        exported()
