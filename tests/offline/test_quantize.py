"""Oracle: the same sums in numpy for one product, and the torch tower for a whole transformer."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from tiny_work import make_student, trace_student

from offline.graph import INPUTS, OUTPUT, Graph, cosine_distance
from offline.quantize import Range, int8_per_token, observe, static_int8
from offline.towers import encode, load_tower
from offline.trace import write_graph, write_tokenizer
from snapshot.manifest import TextSpec

MAKERS = pytest.mark.parametrize("make", [static_int8, int8_per_token])
SPEC = TextSpec(max_tokens=24)
TEXTS = ["a", "remove white space from both ends", "join two paths", "b c", "zinc lead tin", "x" * 40, "copy a file"]
RANDOM = np.random.default_rng(4)
TABLE = RANDOM.normal(size=(50, 8)).astype(np.float32)
WEIGHTS = RANDOM.normal(size=(8, 6)).astype(np.float32)
BIAS = RANDOM.normal(size=6).astype(np.float32)
EVEN = np.ones(8, np.float32)
IDS = RANDOM.integers(0, 50, (4, 5))


def model_of(table=TABLE, weights=WEIGHTS, factors=EVEN, read_twice=False):
    """ids -> (table[ids] * factors) @ weights + bias, or twice the product and the bias."""
    values = {"table": table, "weights": weights, "factors": factors, "bias": BIAS}
    nodes = [
        helper.make_node("Gather", ["table", INPUTS[0]], ["words"]),
        helper.make_node("Mul", ["words", "factors"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum" if read_twice else OUTPUT]),
    ]
    if read_twice:
        nodes.append(helper.make_node("Add", ["sum", "product"], [OUTPUT]))
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info(INPUTS[0], TensorProto.INT64, ["b", "t"])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["b", "t", 6])],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model, ids):
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([OUTPUT], {INPUTS[0]: ids})[0]


def quantized(make, model, ids=IDS):
    return make(model, observe(model, [{INPUTS[0]: ids}]))


def test_the_ranges_are_those_of_every_column():
    parts = observe(model_of(), [{INPUTS[0]: IDS[:1]}, {INPUTS[0]: IDS[1:]}])
    assert list(parts) == ["scaled"]
    assert np.array_equal(parts["scaled"].low, TABLE[IDS].min(axis=(0, 1)))
    assert np.array_equal(parts["scaled"].high, TABLE[IDS].max(axis=(0, 1)))


@MAKERS
@pytest.mark.parametrize("read_twice", [False, True])
def test_a_product_is_off_by_no_more_than_its_steps(make, read_twice):
    model = model_of(read_twice=read_twice)
    product = TABLE[IDS] @ WEIGHTS
    expected = product + BIAS + (product if read_twice else 0)
    error = np.abs(run(quantized(make, model), IDS) - expected).max()
    assert 0 < error < 0.02 * np.abs(product).max() * (2 if read_twice else 1)


def test_columns_are_evened_out_before_they_are_rounded():
    factors = np.where(np.arange(8) == 3, 50, 1).astype(np.float32)
    weights = WEIGHTS / np.sqrt(factors)[:, None]
    values = TABLE[IDS] * factors
    step = (values.max() - values.min()) / 255
    rounded_as_they_are = np.abs((np.round(values / step) * step - values) @ weights).mean()
    found = run(quantized(static_int8, model_of(weights=weights, factors=factors)), IDS)
    assert np.abs(found - (values @ weights + BIAS)).mean() < rounded_as_they_are / 2


@MAKERS
def test_what_is_all_zeros_stays_zeros(make):
    weights = WEIGHTS.copy()
    weights[:, 2] = 0
    table = TABLE.copy()
    table[7] = 0
    found = run(quantized(make, model_of(table, weights)), np.array([[7, 1]]))
    assert np.allclose(found[0, 0], BIAS, atol=0.02)
    assert np.allclose(found[0, :, 2], BIAS[2], atol=0.02)


def test_values_beyond_the_range_seen_are_cut_to_it():
    ranges = {"scaled": Range(np.full(8, -1, np.float32), np.full(8, 1, np.float32))}
    expected = np.clip(TABLE[IDS], -1, 1) @ WEIGHTS + BIAS
    found = run(static_int8(model_of(), ranges), IDS)
    assert np.abs(found - expected).mean() < np.abs(found - (TABLE[IDS] @ WEIGHTS + BIAS)).mean() / 4


@MAKERS
def test_weights_of_products_have_seven_bits(make):
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized(make, model_of()).graph.initializer}
    assert "weights" not in stored
    assert "table" not in stored
    assert np.abs(stored["weights.s8"].astype(int)).max() == 63
    assert stored["table.s8"].dtype == np.int8


@MAKERS
def test_the_fp32_model_is_left_as_it_is(make):
    model = model_of()
    before = model.SerializeToString()
    quantized(make, model)
    assert model.SerializeToString() == before


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The torch tower, its graph and a way to open what is made of it."""
    folder = tmp_path_factory.mktemp("student")
    tower = load_tower(make_student(folder) / "student").eval()
    write_tokenizer(tower, folder / "tokenizer.json")

    def opened(model):
        write_graph(model, "a" * 64, folder / "model.onnx")
        return Graph.open(folder / "model.onnx", folder / "tokenizer.json", SPEC)

    return tower, onnx.load_from_string(trace_student()), opened


@pytest.fixture(params=[static_int8, int8_per_token])
def int8(request, student):
    tower, model, opened = student
    fp32 = opened(model)
    made = request.param(model, observe(model, [fp32.feed([text]) for text in TEXTS]))
    return tower, opened(made), made


def test_a_transformer_stays_near_to_torch(int8):
    tower, graph, _ = int8
    distances = cosine_distance(graph.encode(TEXTS), encode(tower, SPEC, TEXTS))
    assert 0 < distances.max() < 1e-3


@pytest.mark.parametrize("batch_size", [2, 3, 7])
def test_a_text_has_the_same_vector_in_any_batch(batch_size, int8):
    _, graph, _ = int8
    alone = graph.encode(TEXTS)
    assert cosine_distance(graph.encode(TEXTS, batch_size), alone).max() < 1e-12
    backwards = graph.encode(TEXTS[::-1], batch_size)[::-1]
    assert cosine_distance(backwards, alone).max() < 1e-12


class MatMulIntegerToFloat(OpRun):
    op_domain = "com.microsoft"

    def _run(self, left, right, left_scale, right_scale, left_zero, right_zero, bias=None):
        product = (left.astype(np.int32) - left_zero) @ (right.astype(np.int32) - right_zero)
        return (product.astype(np.float32) * (left_scale * right_scale) + (0 if bias is None else bias),)


class GatherElements(OpRun):
    """onnx's own cannot take along a row that is longer than the indices."""

    def _run(self, data, indices, axis=None):
        return (np.take_along_axis(data, indices, axis),)


def test_another_implementation_of_the_same_graph_gives_the_same_vectors(int8):
    """Stands in for another CPU: numpy adds in another order, and its products cannot saturate."""
    _, graph, model = int8
    other = ReferenceEvaluator(model, new_ops=[MatMulIntegerToFloat, GatherElements])
    for text in TEXTS:
        feed = graph.feed([text])
        assert cosine_distance(other.run([OUTPUT], dict(feed))[0], graph.run(feed)).max() < 1e-5


def test_every_product_with_a_matrix_is_in_integers(student):
    _, model, opened = student
    made = int8_per_token(model, {})
    constants = {
        tensor.name for tensor in made.graph.initializer if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1
    }
    assert not [node for node in made.graph.node if node.op_type == "MatMul" and node.input[1] in constants]
    assert opened(made).dim == 32
