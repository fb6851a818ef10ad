"""Documentation of the standard library's Python modules, read from their sources with ``ast``: nothing is imported.

A definition is reported under the name that a reader knows: ``asyncio.run``, not ``asyncio.runners.run``;
``os.path.join``, not ``posixpath.join``. Packages re-export with ``from .part import name``, which is read as well.
"""

from __future__ import annotations

import ast
import sys
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from offline.progress import track

Kind = Literal["function", "class", "method"]
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

EXCLUDED = frozenset(
    [
        *("antigravity", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "ntpath", "pydoc_data", "test", "this"),
        *("tkinter", "turtledemo"),
    ]
)
"""No documentation that a reader looks for (tests, programs, jokes), on its way out, not in every installation, or, with
``ntpath``, the same functions as in ``posixpath``."""
_READER_NAMES = {"posixpath": "os.path", "genericpath": "os.path", "_collections_abc": "collections.abc"}
"""Modules that readers know by another name, which has what ``__all__`` lists."""
_MAX_SIGNATURE_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Entry:
    """One documented function, class or method.

    Attributes:
        name: qualified, as a reader writes it: ``str.strip``, ``pathlib.PurePath.joinpath``.
        module: ``builtins`` for the former, ``pathlib`` for the latter.
        signature: ``(a, *p)``; empty where it is not known.
        doc: the docstring, without its indentation.
    """

    name: str
    module: str
    kind: Kind
    signature: str
    doc: str


@dataclass(frozen=True, slots=True)
class _Module:
    name: str
    is_package: bool
    exported: frozenset[str] | None
    """The literal ``__all__``; None where there is none or where it is computed."""
    imports: tuple[ast.ImportFrom, ...]
    entries: Mapping[str, tuple[Entry, ...]]
    """By the name of the top-level definition; entries' names and modules are still relative to this module."""


def read_sources(stdlib: Path) -> list[Entry]:
    """What the public modules under ``stdlib`` document, module by module in the order of their names.

    Of a name that is defined several times, for other systems or as a property's setter, the first documented one counts.
    """
    modules = {module.name: module for module in _modules(stdlib)}
    homes = _homes(modules)
    found: dict[str, Entry] = {}
    for module in modules.values():
        for name, entries in module.entries.items():
            home = homes.get((module.name, name), _reader_name(module.name))
            offered = module.name not in _READER_NAMES or module.exported is None or name in module.exported
            for entry in entries if offered and _is_public(home) else ():
                found.setdefault(f"{home}.{entry.name}", replace(entry, name=f"{home}.{entry.name}", module=home))
    return list(found.values())


def _modules(stdlib: Path) -> Iterator[_Module]:
    for name in track(sorted(sys.stdlib_module_names - EXCLUDED), "reading the standard library"):
        for path in sorted(_files(stdlib, name)):
            tree = _parse(path)
            if tree is not None:
                yield _module(path.relative_to(stdlib).with_suffix("").parts, tree)


def _module(parts: tuple[str, ...], tree: ast.Module) -> _Module:
    """Keep the little that is needed, and none of the tree."""
    is_package = parts[-1] == "__init__"
    statements = list(_statements(tree.body))
    entries: dict[str, tuple[Entry, ...]] = {}
    for node in statements:
        if isinstance(node, _DEFINITION) and not node.name.startswith("_"):
            entries[node.name] = entries.get(node.name) or tuple(_entries(node))
    return _Module(
        name=".".join(parts[:-1] if is_package else parts),
        is_package=is_package,
        exported=_literal_all(tree),
        imports=tuple(node for node in statements if isinstance(node, ast.ImportFrom)),
        entries=entries,
    )


def _files(stdlib: Path, name: str) -> Iterable[Path]:
    if (stdlib / f"{name}.py").is_file():
        return [stdlib / f"{name}.py"]
    paths = (stdlib / name).rglob("*.py")
    return [path for path in paths if not {"test", "tests", "__main__.py"} & set(path.relative_to(stdlib).parts)]


def _parse(path: Path) -> ast.Module | None:
    """None for files that are no Python, such as deliberately broken ones. Warnings about old escapes are not for our reader."""
    try:
        with tokenize.open(path) as handle, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(handle.read())
    except (SyntaxError, UnicodeDecodeError):
        return None


def _literal_all(tree: ast.Module) -> frozenset[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            try:
                return frozenset(ast.literal_eval(node.value))
            except ValueError:
                return None
    return None


def _homes(modules: Mapping[str, _Module]) -> dict[tuple[str, str], str]:
    """Where a reader finds a re-exported name: (defining module, name) -> module. The shallowest module wins."""
    homes: dict[tuple[str, str], str] = {}
    for module in sorted(modules.values(), key=lambda module: (module.name.count("."), module.name)):
        home = _reader_name(module.name)
        if _is_public(home):
            found = [*_imported_names(module, modules), *_declared_names(module, modules)]
            homes = dict.fromkeys(found, home) | homes
    return homes


def _imported_names(module: _Module, modules: Mapping[str, _Module]) -> Iterator[tuple[str, str]]:
    for node in module.imports:
        source = modules.get(_imported(module, node))
        if source is not None and _reexports(module, source):
            yield from ((source.name, name) for name in _taken(node, module, source))


def _declared_names(module: _Module, modules: Mapping[str, _Module]) -> Iterator[tuple[str, str]]:
    """Names that a package declares and loads when asked for, as ``concurrent.futures`` does with its executors."""
    if module.is_package and module.exported:
        parts = [part for part in modules.values() if part.name.startswith(f"{module.name}.")]
        missing = module.exported - module.entries.keys() - {alias.name for node in module.imports for alias in node.names}
        yield from ((part.name, name) for part in parts for name in sorted(missing & part.entries.keys()))


def _imported(module: _Module, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    parents = module.name.split(".")
    base = parents[: len(parents) - node.level + module.is_package]
    return ".".join([*base, *([node.module] if node.module else [])])


def _reexports(module: _Module, source: _Module) -> bool:
    return not _is_public(source.name) or (module.is_package and source.name.startswith(f"{module.name}."))


def _taken(node: ast.ImportFrom, module: _Module, source: _Module) -> Iterator[str]:
    for alias in node.names:
        if alias.name == "*":
            yield from (name for name in source.entries if source.exported is None or name in source.exported)
        elif alias.asname is None and module.exported is not None and alias.name in module.exported:
            yield alias.name


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module or class body, through ``if``, ``try`` and ``with``."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "handlers", "orelse", "finalbody"):
                for inner in getattr(node, part, []):
                    yield from _statements(inner.body if isinstance(inner, ast.ExceptHandler) else [inner])


def _entries(node: _Definition, owner: str = "") -> Iterator[Entry]:
    """A definition and, for a class, its public members; named from the module on."""
    name = f"{owner}.{node.name}" if owner else node.name
    doc = _docstring(node)
    if doc:
        yield Entry(name, "", _kind(node, bool(owner)), _signature(node, bool(owner)), doc)
    if isinstance(node, ast.ClassDef):
        for inner in _statements(node.body):
            if isinstance(inner, _DEFINITION) and not inner.name.startswith("_"):
                yield from _entries(inner, name)


def _docstring(node: _Definition) -> str:
    """A class that only documents how it is made is documented by that."""
    doc = ast.get_docstring(node)
    if doc or not isinstance(node, ast.ClassDef):
        return doc or ""
    maker = _maker(node)
    return (ast.get_docstring(maker) if maker else None) or ""


def _maker(node: ast.ClassDef) -> ast.FunctionDef | None:
    made = {inner.name: inner for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return made.get("__init__") or made.get("__new__")


def _kind(node: _Definition, in_class: bool) -> Kind:
    if isinstance(node, ast.ClassDef):
        return "class"
    return "method" if in_class else "function"


def _signature(node: _Definition, in_class: bool) -> str:
    if isinstance(node, ast.ClassDef):
        maker = _maker(node)
        return _signature(maker, in_class=True) if maker else ""
    decorators = {ast.unparse(decorator).rsplit(".")[-1] for decorator in node.decorator_list}
    if decorators & {"property", "cached_property"}:
        return ""
    return arguments(node.args, drop_first=in_class and "staticmethod" not in decorators)


def arguments(args: ast.arguments, drop_first: bool) -> str:
    """``(a, *p, key=None)``: names and defaults, without annotations and without ``self``; long ones end in an ellipsis."""
    positional = [*args.posonlyargs, *args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(args.defaults))
    parts = [_argument(arg, default) for arg, default in zip(positional, [*defaults, *args.defaults], strict=True)][drop_first:]
    if args.vararg:
        parts.append(f"*{args.vararg.arg}")
    elif args.kwonlyargs:
        parts.append("*")
    parts += [_argument(arg, default) for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    if args.kwarg:
        parts.append(f"**{args.kwarg.arg}")
    text = f"({', '.join(parts)})"
    return text if len(text) <= _MAX_SIGNATURE_CHARACTERS else f"{text[:_MAX_SIGNATURE_CHARACTERS].rsplit(',', 1)[0]}, ...)"


def _argument(arg: ast.arg, default: ast.expr | None) -> str:
    return arg.arg if default is None else f"{arg.arg}={ast.unparse(default)}"


def _reader_name(module: str) -> str:
    return _READER_NAMES.get(module, module)


def _is_public(module: str) -> bool:
    return not any(part.startswith("_") for part in module.split("."))
