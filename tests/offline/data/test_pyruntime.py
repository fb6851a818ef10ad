import inspect
import pydoc

import pytest

from offline.data.pyruntime import read_runtime


@pytest.fixture(scope="module")
def entries():
    found = list(read_runtime())
    names = [entry.name for entry in found]
    assert len(names) == len(set(names))
    return {entry.name: entry for entry in found}


@pytest.mark.parametrize(
    ("name", "module", "kind"),
    [
        ("str.strip", "builtins", "method"),
        ("dict.fromkeys", "builtins", "method"),
        ("bytes.maketrans", "builtins", "method"),
        ("len", "builtins", "function"),
        ("open", "builtins", "function"),
        ("ValueError", "builtins", "class"),
        ("math.gcd", "math", "function"),
        ("itertools.chain", "itertools", "class"),
        ("itertools.chain.from_iterable", "itertools", "method"),
        ("collections.deque.append", "collections", "method"),
        ("io.StringIO", "io", "class"),
        ("re.Match.group", "re", "method"),
        ("os.listdir", "os", "function"),
        ("time.sleep", "time", "function"),
        ("os.path.splitext", "os.path", "function"),
        ("random.choice", "random", "function"),
    ],
)
def test_everyday_names_are_there(entries, name, module, kind):
    assert (entries[name].module, entries[name].kind) == (module, kind)


@pytest.mark.parametrize("name", ["IOError", "io.open", "os.error", "str.__len__", "io.BytesIO.__iter__", "socket.error"])
def test_aliases_and_special_methods_are_not(entries, name):
    assert name not in entries


def test_signatures_have_no_self(entries):
    assert entries["str.split"].signature == "(sep=None, maxsplit=-1)"
    assert entries["os.path.splitext"].signature == "(p)"
    assert entries["random.choice"].signature == "(seq)"


def test_docstrings_are_those_of_the_interpreter(entries):
    for name, entry in entries.items():
        if entry.module in {"builtins", "math", "itertools"}:
            assert entry.doc == inspect.cleandoc(pydoc.locate(name).__doc__), name
