"""Documentation of the standard library that only the running interpreter has, read with ``inspect``: what is compiled, and
what a module documents while it is imported, such as ``os.path.splitext`` or ``random.choice``.

Only modules on a list are imported: those whose import opens, prints and changes nothing.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import types
from collections.abc import Iterator
from types import ModuleType
from typing import Any, cast

from offline.data.pysource import Entry, arguments

_MODULES = (
    *("builtins", "array", "asyncio", "atexit", "binascii", "bisect", "bz2", "cmath", "codecs", "collections", "contextvars"),
    *("csv", "datetime", "decimal", "faulthandler", "fcntl", "functools", "gc", "grp", "hashlib", "heapq", "io", "itertools"),
    *(
        "locale",
        "lzma",
        "marshal",
        "math",
        "mmap",
        "operator",
        "os",
        "os.path",
        "pickle",
        "pwd",
        "queue",
        "random",
        "re",
        "resource",
    ),
    *("select", "signal", "socket", "sqlite3", "ssl", "struct", "sys", "syslog", "termios", "threading", "time"),
    *("tracemalloc", "types", "typing", "unicodedata", "warnings", "weakref", "zlib", "zoneinfo"),
)
"""In the order in which a name that several modules share is given to one of them."""
_METHODS = (types.MethodDescriptorType, types.ClassMethodDescriptorType, types.BuiltinFunctionType, staticmethod)


def read_runtime() -> Iterator[Entry]:
    """Yield the functions and compiled classes that the listed modules offer, each object under one name only."""
    seen: set[int] = set()
    for name in _MODULES:
        for member, value in _offered(name):
            if id(value) not in seen:
                seen.add(id(value))
                yield from _entries(value, name, member)


def _offered(name: str) -> Iterator[tuple[str, Any]]:
    """Nothing where this interpreter was built without the module, or for another platform."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        return
    yield from ((member, value) for member, value in sorted(vars(module).items()) if _is_offered(module, member, value))


def _is_offered(module: ModuleType, name: str, value: Any) -> bool:
    """Whether ``value`` is a function or a compiled class that ``module`` offers under this name, no alias of another."""
    if name.startswith("_") or not (inspect.isroutine(value) or _is_compiled_class(value)):
        return False
    exported = vars(module) if module is builtins else getattr(module, "__all__", None)
    at_home = value.__module__ in {module.__name__, f"_{module.__name__}"}
    if not (at_home if exported is None else name in exported):
        return False
    return value.__name__ == name or getattr(module, value.__name__, None) is not value


def _is_compiled_class(value: Any) -> bool:
    return isinstance(value, type) and not any(inspect.isfunction(member) for member in vars(value).values())


def _entries(value: Any, module: str, name: str) -> Iterator[Entry]:
    qualified = name if module == "builtins" else f"{module}.{name}"
    is_class = isinstance(value, type)
    doc = _doc(value)
    if doc:
        yield Entry(qualified, module, "class" if is_class else "function", _signature(value), doc)
    for member, method in sorted(vars(value).items()) if is_class else []:
        if isinstance(method, _METHODS) and not member.startswith("_"):
            bound = getattr(value, member)  # a static method's own docstring is that of the type staticmethod
            doc = _doc(bound)
            if doc:
                yield Entry(f"{qualified}.{member}", module, "method", _signature(bound), doc)


def _doc(value: Any) -> str:
    doc = value.__doc__
    return inspect.cleandoc(doc) if isinstance(doc, str) else ""


def _signature(value: Any) -> str:
    """Empty where the interpreter does not know it (the docstring then begins with it) or cannot write a default.

    Not ``inspect.signature`` for what is compiled, for it evaluates the defaults.
    """
    is_python = inspect.isfunction(value) or inspect.ismethod(value)
    text: str = str(inspect.signature(value)) if is_python else getattr(value, "__text_signature__", None) or ""
    try:
        definition = cast("ast.FunctionDef", ast.parse(f"def f{text.replace('$', '')}: ...").body[0])
    except SyntaxError:
        return ""
    return arguments(definition.args, drop_first=text.startswith("($"))
