"""Oracle: the torch tower, on the ids and masks that the graph reads."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny_work import make_student
from tokenizers import Tokenizer

from offline.errors import BackboneError, RecipeError
from offline.graph import INPUTS, OUTPUT, Graph
from offline.trace import to_onnx, write_graph, write_tokenizer
from snapshot.manifest import TextSpec

SPACE = "a" * 64
TEXTS = ["a", "remove white space from both ends of a string", "join two paths", "b c", "x" * 60]


@pytest.fixture(scope="module", params=["dense", "qwen"])
def traced(request, tmp_path_factory):
    """A tower and its two files, in a folder that holds nothing else."""
    folder = tmp_path_factory.mktemp(request.param)
    tower = SentenceTransformer(str(make_student(folder / "distill", request.param) / "student"), device="cpu").eval()
    files = folder / "files"
    write_graph(to_onnx(tower), SPACE, files / "model.onnx")
    write_tokenizer(tower, files / "tokenizer.json")
    return tower, files


@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (1, 2), (1, 3), (2, 7), (3, 2), (9, 40), (1, 100)])
def test_every_shape_of_input_gives_what_torch_gives(batch, sequence, traced):
    tower, files = traced
    random = np.random.default_rng(batch + sequence)
    ids = random.integers(4, 60, (batch, sequence))
    mask = (np.arange(sequence) < random.integers(1, sequence + 1, (batch, 1))).astype(np.int64)
    session = ort.InferenceSession(str(files / "model.onnx"), providers=["CPUExecutionProvider"])
    (vectors,) = session.run([OUTPUT], dict(zip(INPUTS, (ids, mask), strict=True)))
    with torch.no_grad():
        expected = tower({"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)})[OUTPUT].numpy()
    assert np.allclose(vectors, expected, atol=1e-5)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_texts_give_what_torch_gives_truncated_too(batch_size, traced):
    tower, files = traced
    graph = Graph.open(files / "model.onnx", files / "tokenizer.json", TextSpec(max_tokens=16))
    tower.max_seq_length = 16
    assert np.allclose(graph.encode(TEXTS, batch_size), tower.encode(TEXTS), atol=1e-5)


def test_the_file_stands_alone_and_says_its_space(traced):
    _, files = traced
    assert sorted(path.name for path in files.iterdir()) == ["model.onnx", "tokenizer.json"]
    graph = Graph.open(files / "model.onnx", files / "tokenizer.json", TextSpec())
    assert graph.space == SPACE
    assert graph.dim == 32


def test_no_path_of_this_machine_is_in_the_file(traced):
    _, files = traced
    assert b"site-packages" not in (files / "model.onnx").read_bytes()


def test_the_tokenizer_neither_cuts_nor_pads(traced):
    tokenizer = Tokenizer.from_file(str(traced[1] / "tokenizer.json"))
    assert tokenizer.truncation is None
    assert tokenizer.padding is None


def test_inputs_are_two_and_dynamic(traced):
    graph = onnx.load(str(traced[1] / "model.onnx")).graph
    shapes = {value.name: [axis.dim_param for axis in value.type.tensor_type.shape.dim] for value in graph.input}
    assert shapes == {name: ["batch", "sequence"] for name in INPUTS}


class WithoutFastTokenizer:
    tokenizer = object()


def test_a_tokenizer_that_is_python_only_is_refused(tmp_path):
    with pytest.raises(BackboneError, match="needs"):
        write_tokenizer(WithoutFastTokenizer(), tmp_path / "tokenizer.json")


def test_weights_beyond_one_file_are_refused():
    with pytest.raises(RecipeError, match="take 8"):
        to_onnx(torch.nn.Linear(2**16, 2**15, device="meta"))
