"""An ONNX graph being rewritten: nodes are kept, replaced or added in order, constants come and go."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from offline.ranking import Floats

_CONTRIB_VERSION = 1


@dataclass(frozen=True, slots=True)
class Bias:
    """A constant float32[n] that is added to a value and to nothing else; ``result`` is the name of the sum."""

    constant: str
    result: str


@dataclass
class Rewrite:
    """A graph and what becomes of it; ``model`` itself is not changed."""

    model: onnx.ModelProto
    _nodes: list[onnx.NodeProto] = field(default_factory=list)
    _dropped: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def is_constant(self, name: str, axes: int) -> bool:
        """Whether ``name`` is a float32 constant with so many axes."""
        tensor = self._constants.get(name)
        return tensor is not None and tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == axes

    def is_product(self, node: onnx.NodeProto) -> bool:
        """Whether the node multiplies something that is computed with a constant matrix."""
        if node.op_type != "MatMul" or not self.is_constant(node.input[1], axes=2):
            return False
        return node.input[0] not in self._constants

    def array(self, name: str) -> Floats:
        """A constant's values."""
        return np.asarray(numpy_helper.to_array(self._constants[name]), np.float32)

    def constant(self, name: str, values: NDArray[np.generic] | np.generic) -> str:
        """Add a constant, or find the one of this name; returns the name."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(values).reshape(np.shape(values)), name)
        return name

    def add(self, operator: str, inputs: list[str], result: str, domain: str = "", **attributes: int) -> str:
        """Add a node that computes ``result``; returns the name."""
        self._nodes.append(helper.make_node(operator, inputs, [result], name=result, domain=domain, **attributes))
        return result

    def keep(self, node: onnx.NodeProto) -> None:
        """Take a node over as it is, unless something else computes its result by now."""
        if node.output[0] not in self._dropped:
            self._nodes.append(node)

    def take_bias(self, name: str) -> Bias | None:
        """Take away the node that adds a constant vector to ``name``, if that is all that happens to it."""
        readers = self._readers.get(name, [])
        if name in self._outputs or len(readers) != 1 or readers[0].op_type != "Add":
            return None
        (sum_of,) = readers
        others = [other for other in sum_of.input if other != name]
        if len(others) != 1 or not self.is_constant(others[0], axes=1):
            return None
        self._dropped.add(sum_of.output[0])
        return Bias(others[0], sum_of.output[0])

    def finish(self) -> onnx.ModelProto:
        """The new model, with those constants that it reads."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        read = dict.fromkeys(name for node in self._nodes for name in node.input)
        graph.initializer.extend(self._constants[name] for name in read if name in self._constants)
        used = {opset.domain for opset in model.opset_import}
        new = sorted({node.domain for node in self._nodes} - used)
        model.opset_import.extend(helper.make_opsetid(domain, _CONTRIB_VERSION) for domain in new)
        return model
