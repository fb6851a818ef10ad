"""What is kept, dropped and left alone, on graphs of a few nodes; the arithmetic is in test_quantize."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from offline.rewrite import Bias, Rewrite


def model_of(*nodes, outputs=("y",)):
    """x float32[2, 3] and constants m [3, 3], v [3], w int64 [3, 3]."""
    constants = {"m": np.eye(3, dtype=np.float32), "v": np.ones(3, np.float32), "w": np.eye(3, dtype=np.int64)}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("x", *outputs)]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    return helper.make_model(helper.make_graph(list(nodes), "g", values[:1], values[1:], tensors))


def add(left, right, result="y"):
    return helper.make_node("Add", [left, right], [result])


PRODUCT = helper.make_node("MatMul", ["x", "m"], ["p"])


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (PRODUCT, True),
        (helper.make_node("MatMul", ["m", "x"], ["p"]), False),
        (helper.make_node("MatMul", ["m", "m"], ["p"]), False),
        (helper.make_node("MatMul", ["x", "v"], ["p"]), False),
        (helper.make_node("MatMul", ["x", "w"], ["p"]), False),
        (helper.make_node("Mul", ["x", "m"], ["p"]), False),
    ],
)
def test_a_product_is_of_something_computed_with_a_constant_float_matrix(node, expected):
    assert Rewrite(model_of(node)).is_product(node) is expected


@pytest.mark.parametrize(
    ("nodes", "outputs", "expected"),
    [
        ((PRODUCT, add("p", "v")), ("y",), Bias("v", "y")),
        ((PRODUCT, add("v", "p")), ("y",), Bias("v", "y")),
        ((PRODUCT, add("p", "m")), ("y",), None),
        ((PRODUCT, add("p", "x")), ("y",), None),
        ((PRODUCT, add("p", "p")), ("y",), None),
        ((PRODUCT, helper.make_node("Mul", ["p", "v"], ["y"])), ("y",), None),
        ((PRODUCT, add("p", "v", "z"), add("z", "p")), ("y",), None),
        ((PRODUCT, add("p", "v")), ("y", "p"), None),
    ],
)
def test_a_bias_is_taken_only_where_nothing_else_reads_the_product(nodes, outputs, expected):
    assert Rewrite(model_of(*nodes, outputs=outputs)).take_bias("p") == expected


def test_what_is_taken_is_not_kept_and_what_nothing_reads_is_left_out():
    model = model_of(PRODUCT, add("p", "v"))
    graph = Rewrite(model)
    bias = graph.take_bias("p")
    graph.add("Mul", ["x", graph.constant("two", np.float32(2))], bias.result)
    graph.keep(model.graph.node[1])
    made = graph.finish()
    onnx.checker.check_model(made)
    assert [node.op_type for node in made.graph.node] == ["Mul"]
    assert [tensor.name for tensor in made.graph.initializer] == ["two"]
    assert len(model.graph.node) == 2
