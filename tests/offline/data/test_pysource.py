from pathlib import Path
from textwrap import dedent

import pytest

from offline.data.pysource import read_sources

SOURCES = {
    "json/__init__.py": '''
        from .decoder import JSONDecoder, helper
        __all__ = ["loads", "JSONDecoder", "lazy"]
        def loads(text: str, /, *args: int, cls=None, **kw) -> dict:
            """Read JSON."""
        def undocumented(): pass
        def _private():
            """Not for readers."""
        ''',
    "json/decoder.py": '''
        class JSONDecoder:
            """Decodes."""
            def __init__(self, *, strict=True): ...
            def decode(self, text):
                """Decode one text."""
            @property
            def state(self):
                """Where it is."""
            @state.setter
            def state(self, value):
                """Not this one."""
            @staticmethod
            def plain(a, b=2):
                """Without self."""
            def __repr__(self):
                """Not for readers."""
            class Inner:
                def __new__(cls, x):
                    """Make an inner one."""
        def helper():
            """Stays where it is."""
        ''',
    "json/late.py": 'def lazy():\n    "Loaded when asked for."\n',
    "json/tests/test_json.py": 'def case():\n    "A test."\n',
    "json/__main__.py": 'def main():\n    "A program."\n',
    "collections/__init__.py": "",
    "collections/abc.py": "from _collections_abc import *\n",
    "_collections_abc.py": '''
        __all__ = ["Mapping"]
        class Mapping:
            """Maps."""
        class Hidden:
            """Not exported."""
        ''',
    "os.py": "from _collections_abc import Mapping\n",
    "posixpath.py": '''
        import os
        if os.name == "x":
            def join(a, *p):
                """Join."""
        try:
            from posix import normpath
        except ImportError:
            def normpath(path):
                """Normalise."""
        ''',
    "ntpath.py": 'def join(path):\n    "The other one."\n',
    "this.py": 'raise SystemExit\ndef zen():\n    "A joke."\n',
    "copy.py": f'def copy({", ".join(f"argument_{i}" for i in range(30))}):\n    "Copy it. \\\\d"\n',
    "glob.py": "def broken(:\n",
    "notstdlib.py": 'def f():\n    "No module of the library."\n',
}


@pytest.fixture
def entries(tmp_path: Path):
    for name, source in SOURCES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source))
    return {entry.name: entry for entry in read_sources(tmp_path)}


def test_finds_every_public_definition_under_the_name_a_reader_knows(entries):
    assert set(entries) == {
        "json.loads",
        "json.JSONDecoder",
        "json.JSONDecoder.decode",
        "json.JSONDecoder.state",
        "json.JSONDecoder.plain",
        "json.JSONDecoder.Inner",
        "json.decoder.helper",
        "json.lazy",
        "collections.abc.Mapping",
        "os.path.join",
        "os.path.normpath",
        "copy.copy",
    }


def test_modules_and_kinds(entries):
    found = {name: (entry.module, entry.kind) for name, entry in entries.items()}
    assert found["json.loads"] == ("json", "function")
    assert found["json.JSONDecoder"] == ("json", "class")
    assert found["json.JSONDecoder.decode"] == ("json", "method")
    assert found["json.JSONDecoder.Inner"] == ("json", "class")
    assert found["os.path.join"] == ("os.path", "function")


def test_signatures_have_neither_annotations_nor_self(entries):
    signatures = {name: entry.signature for name, entry in entries.items()}
    assert signatures["json.loads"] == "(text, *args, cls=None, **kw)"
    assert signatures["json.JSONDecoder"] == "(*, strict=True)"
    assert signatures["json.JSONDecoder.decode"] == "(text)"
    assert signatures["json.JSONDecoder.state"] == ""
    assert signatures["json.JSONDecoder.plain"] == "(a, b=2)"
    assert signatures["json.JSONDecoder.Inner"] == "(x)"


def test_long_signatures_are_cut_between_arguments(entries):
    signature = entries["copy.copy"].signature
    assert len(signature) < 170
    assert signature.endswith(", ...)")
    assert signature.startswith("(argument_0, argument_1,")


def test_the_first_documented_definition_counts(entries):
    assert entries["json.JSONDecoder.state"].doc == "Where it is."
    assert entries["json.JSONDecoder.Inner"].doc == "Make an inner one."
