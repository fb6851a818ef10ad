"""A sheet of formulas: the text that is shown is the text that is computed, so that no page can say another formula."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Value = float | None
"""None: a figure it needs has none, as where no load is light enough for the latency asked for."""
Function = Callable[..., Value]

_OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
MATHEMATICS: Mapping[str, Function] = {
    "ceil": lambda value: float(max(math.ceil(value - 1e-9), value > 0)),  # of the least load too there is one to carry it
    "floor": lambda value: float(math.floor(value + 1e-9)),
    "sqrt": math.sqrt,
    "max": max,
    "min": min,
}


@dataclass(frozen=True, slots=True)
class Step:
    """A line of a sheet.

    Attributes:
        name: by which later lines know it.
        formula: sums, products, quotients and powers of names and numbers, and calls of the sheet's functions.
        about: what it is, for people.
    """

    name: str
    unit: str
    formula: str
    about: str


def compute(steps: Sequence[Step], given: Mapping[str, float], functions: Mapping[str, Function]) -> dict[str, Value]:
    """The values of all steps, in order, from the ``given`` ones.

    Raises:
        KeyError: a formula has a name that nobody gave.
    """
    known: dict[str, Value] = dict(given)
    usable = {**MATHEMATICS, **functions}
    for step in steps:
        known[step.name] = _value(ast.parse(step.formula, mode="eval").body, known, usable)
    return {step.name: known[step.name] for step in steps}


def names_in(formula: str) -> list[str]:
    """Those that are no functions, each once, in order."""
    tree = ast.parse(formula, mode="eval")
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called]
    return list(dict.fromkeys(found))


def _value(node: ast.expr, known: Mapping[str, Value], functions: Mapping[str, Function]) -> Value:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return known[name]
        case ast.BinOp(left=left, op=op, right=right):
            values = _value(left, known, functions), _value(right, known, functions)
            return _all(_OPERATORS[type(op)], values)
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _all(functions[name], [_value(each, known, functions) for each in arguments])
    raise ValueError(f"a formula has what none may have: {ast.unparse(node)}")


def _all(function: Function, values: Sequence[Value]) -> Value:
    there = [value for value in values if value is not None]
    if len(there) < len(values):
        return None
    try:
        return function(*there)
    except (ZeroDivisionError, OverflowError):
        return None
