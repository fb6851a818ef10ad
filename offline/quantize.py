"""int8 graphs in which a text's vector does not depend on what else is in its batch.

Products of activations with constant matrices are computed in integers, u8 x s8, and the word vectors are kept in int8;
everything between stays float32. onnxruntime's own dynamic quantisation takes one scale for a whole batch; here a scale
is fixed beforehand, or belongs to one token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from offline.graph import INPUTS, Feed
from offline.ranking import Floats
from offline.rewrite import Rewrite

_CONTRIB = "com.microsoft"
_BYTE = 127
_SEVEN_BITS = 63
"""The weights of products have 7 bits: without VNNI, sums of two u8 x s8 products are kept in 16 bits and saturate with 8,
so that one snapshot would give other vectors on another CPU."""
_SMOOTHING = 0.75
_TINY = np.float32(1e-9)
"""Stands in for the scale of what is all zeros."""


@dataclass(frozen=True, slots=True)
class Range:
    """The least and the greatest value of each column of an activation, float32[k] each."""

    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class _Activation:
    """An activation in u8: names of its values, scale and zero point.

    Attributes:
        columns: what its columns were divided by before, float32[k]; the weights' rows make up for it.
        rows: name of what its rows were divided by before, which the product makes up for; None if nothing was.
    """

    values: str
    scale: str
    zero: str
    columns: Floats
    rows: str | None


def observe(model: onnx.ModelProto, feeds: Iterable[Feed]) -> dict[str, Range]:
    """Run the graph on feeds without padding and note the range of every activation that a constant matrix multiplies.

    Returns:
        Ranges by the activation's name.
    """
    graph = Rewrite(model)
    names = sorted({node.input[0] for node in model.graph.node if graph.is_product(node)})
    if not names:
        return {}  # onnxruntime takes no names for all outputs
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = ort.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    ranges: dict[str, Range] = {}
    for feed in feeds:
        for name, found in zip(names, session.run(names, feed), strict=True):
            rows = found.reshape(-1, found.shape[-1])
            seen = ranges.get(name, Range(rows[0], rows[0]))
            ranges[name] = Range(np.minimum(seen.low, rows.min(axis=0)), np.maximum(seen.high, rows.max(axis=0)))
    return ranges


def static_int8(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Scales from ``ranges`` for all batches, columns evened out first (SmoothQuant, Xiao et al., arXiv 2211.10438).

    A few columns of a transformer's activations are many times as large as the others, and would leave those few steps:
    column j is divided by max|x_j| ** 0.75 / max|w_j| ** 0.25, and row j of the weights multiplied by it.
    """
    return _quantize(model, lambda graph, name, weights: _fixed(graph, name, weights, ranges[name]))


def int8_per_token(model: onnx.ModelProto, _ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """A scale for each token, found when it is there: its largest value, as LLM.int8() does (arXiv 2208.07339)."""
    return _quantize(model, _by_row)


_Activate = Callable[[Rewrite, str, list[Floats]], _Activation]


def _quantize(model: onnx.ModelProto, activate: _Activate) -> onnx.ModelProto:
    graph = Rewrite(model)
    weights: dict[str, list[Floats]] = {}
    for node in model.graph.node:
        if graph.is_product(node):
            weights.setdefault(node.input[0], []).append(graph.array(node.input[1]))
    activations: dict[str, _Activation] = {}
    for node in model.graph.node:
        if graph.is_product(node):
            name = node.input[0]
            if name not in activations:
                activations[name] = activate(graph, name, weights[name])
            _multiply(graph, node, activations[name])
        elif node.op_type == "Gather" and node.input[1] == INPUTS[0] and graph.is_constant(node.input[0], axes=2):
            _look_up(graph, node)
        else:
            graph.keep(node)
    return graph.finish()


def _fixed(graph: Rewrite, name: str, weights: list[Floats], seen: Range) -> _Activation:
    columns = _even(np.maximum(np.abs(seen.low), np.abs(seen.high)), np.max([np.abs(w).max(axis=1) for w in weights], axis=0))
    low, high = min(0.0, float((seen.low / columns).min())), max(0.0, float((seen.high / columns).max()))
    scale = np.maximum(np.float32((high - low) / 255), _TINY)
    zero = np.uint8(np.clip(np.round(-low / scale), 0, 255))
    smooth = graph.add("Mul", [name, graph.constant(f"{name}.columns", 1 / columns)], f"{name}.even")
    names = graph.constant(f"{name}.scale", scale), graph.constant(f"{name}.zero", zero)
    return _Activation(graph.add("QuantizeLinear", [smooth, *names], f"{name}.u8"), *names, columns, None)


def _even(largest: Floats, weights: Floats) -> Floats:
    factors = np.maximum(largest, _TINY) ** _SMOOTHING / np.maximum(weights, _TINY) ** (1 - _SMOOTHING)
    return np.asarray(factors, np.float32)


def _by_row(graph: Rewrite, name: str, weights: list[Floats]) -> _Activation:
    last = graph.constant("quantize.last_axis", np.array([-1]))
    largest = graph.add("ReduceMax", [graph.add("Abs", [name], f"{name}.abs"), last], f"{name}.largest", keepdims=1)
    rows = graph.add("Max", [largest, graph.constant("quantize.tiny", _TINY)], f"{name}.rows")
    names = (
        graph.constant("quantize.row_scale", np.float32(1 / _BYTE)),
        graph.constant("quantize.row_zero", np.uint8(_BYTE + 1)),
    )
    values = graph.add("QuantizeLinear", [graph.add("Div", [name, rows], f"{name}.even"), *names], f"{name}.u8")
    return _Activation(values, *names, np.ones(len(weights[0]), np.float32), rows)


def _multiply(graph: Rewrite, node: onnx.NodeProto, left: _Activation) -> None:
    """The product in integers, its bias with it where nothing comes between them."""
    right, result = node.input[1], node.output[0]
    matrix, scale = _int8(graph.array(right) * left.columns[:, None], 0, _SEVEN_BITS)
    inputs = [left.values, graph.constant(f"{right}.s8", matrix), left.scale, graph.constant(f"{right}.scale", scale)]
    inputs += [left.zero, graph.constant(f"{right}.zero", np.zeros(len(scale), np.int8))]
    if left.rows is not None:
        product = graph.add("MatMulIntegerToFloat", inputs, f"{result}.unscaled", _CONTRIB)
        graph.add("Mul", [product, left.rows], result)
        return
    bias = graph.take_bias(result)
    if bias is not None:
        inputs, result = [*inputs, bias.constant], bias.result
    graph.add("MatMulIntegerToFloat", inputs, result, _CONTRIB)


def _look_up(graph: Rewrite, node: onnx.NodeProto) -> None:
    """Word vectors in int8, a scale for each: most of a small tower's file."""
    name, ids = node.input
    table, scale = _int8(graph.array(name), 1, _BYTE)
    rows = graph.add("Gather", [graph.constant(f"{name}.s8", table), ids], f"{name}.rows")
    scales = graph.add("Gather", [graph.constant(f"{name}.scale", scale[:, None]), ids], f"{name}.scales")
    graph.add("Mul", [graph.add("Cast", [rows], f"{name}.floats", to=TensorProto.FLOAT), scales], node.output[0])


def _int8(weights: Floats, axis: int, steps: int) -> tuple[NDArray[np.int8], Floats]:
    """Whole numbers of -steps to steps, and the scale of each column (``axis`` 0) or row (1)."""
    scale = np.maximum(np.abs(weights).max(axis=axis, keepdims=True) / steps, _TINY)
    return np.round(weights / scale).astype(np.int8), np.asarray(scale.reshape(-1), np.float32)
