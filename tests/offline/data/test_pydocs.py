import inspect
import pydoc
import sys

import pytest

from offline.config import DataConfig
from offline.data import pydocs
from offline.data.pairs import fold
from snapshot.documents import columns_of


@pytest.fixture(scope="module")
def dataset():
    return pydocs.load(DataConfig(source="pydocs"))


@pytest.fixture(scope="module")
def documents(dataset):
    return {row["id"]: row for row in dataset.documents.to_pylist()}


@pytest.mark.parametrize(
    ("name", "title", "module", "kind"),
    [
        ("os.path.join", "os.path.join(a, *p)", "os.path", "function"),
        ("str.strip", "str.strip(chars=None)", "builtins", "method"),
        ("bytes.strip", "bytes.strip(bytes=None)", "builtins", "method"),
        ("dict.get", "dict.get(key, default=None)", "builtins", "method"),
        ("dict.pop", "dict.pop(k[,d])", "builtins", "method"),
        ("math.gcd", "math.gcd(*integers)", "math", "function"),
        ("itertools.chain", "itertools.chain(*iterables)", "itertools", "class"),
        ("shutil.copytree", None, "shutil", "function"),
        ("pathlib.PurePath.joinpath", None, "pathlib", "method"),
        ("collections.abc.Mapping", "collections.abc.Mapping", "collections.abc", "class"),
        ("concurrent.futures.ThreadPoolExecutor", None, "concurrent.futures", "class"),
        ("asyncio.run", None, "asyncio", "function"),
        ("datetime.datetime.now", "datetime.datetime.now(tz=None)", "datetime", "method"),
        ("decimal.Decimal.sqrt", "decimal.Decimal.sqrt(context=None)", "decimal", "method"),
    ],
)
def test_everyday_names_are_there(documents, name, title, module, kind):
    found = documents[name]
    assert (found["module"], found["kind"]) == (module, kind)
    assert found["title"] == title or title is None


@pytest.mark.parametrize(
    "name", ["json.dumps", "os.path.join", "shutil.copytree", "textwrap.dedent", "pathlib.PurePath.joinpath", "len"]
)
def test_texts_are_the_docstrings(documents, name):
    assert documents[name]["text"] == inspect.getdoc(pydoc.locate(name))


def test_columns_can_be_filtered_on(dataset):
    filterable = {column.name: column.filterable for column in columns_of(dataset.documents.schema)}
    assert filterable == {"title": False, "text": False, "module": True, "kind": True, "since": True}


def test_there_are_thousands_in_a_fixed_order_without_duplicates(dataset):
    ids = dataset.documents.column("id").to_pylist()
    assert len(ids) > 4000
    assert ids == sorted(set(ids))
    assert "bytearray.ljust" not in ids


def test_what_is_private_or_beside_the_point_is_left_out(documents):
    parts = {part for name in documents for part in name.split(".")}
    assert not {part for part in parts if part.startswith("_")}
    assert not {name.split(".")[0] for name in documents} & {"test", "idlelib", "lib2to3", "antigravity", "posixpath", "tkinter"}


def test_nothing_is_imported_that_acts(dataset):
    assert not {"antigravity", "this", "idlelib", "turtle", "tkinter"} & set(sys.modules)


def test_loading_again_gives_the_same(dataset):
    again = pydocs.load(DataConfig(source="pydocs"))
    assert again.documents.equals(dataset.documents)
    assert again.pairs == dataset.pairs
    assert again.judgements == dataset.judgements


def test_everyday_modules_are_never_held_out(dataset, documents):
    for name, module in [("os.path.join", "os.path"), ("str.strip", "builtins")]:
        row = list(documents).index(name)
        assert pydocs.split_of(module) == "train"
        assert dataset.texts[row].split() == documents[name]["text"].split()


def test_splits_share_no_module(dataset, documents):
    modules = {split: set() for split in ("train", "dev", "test")}
    for query in dataset.queries:
        modules[query.split].add(documents[query.id]["module"].split(".")[0])
    assert not modules["train"] & (modules["dev"] | modules["test"])
    assert not modules["dev"] & modules["test"]
    assert not (modules["dev"] | modules["test"]) & pydocs.EVERYDAY


def test_a_held_out_query_is_read_by_no_tower(dataset, documents):
    held_out = [query for query in dataset.queries if query.split != "train"]
    assert len([query for query in held_out if query.split == "test"]) > 100
    assert len([query for query in held_out if query.split == "dev"]) > 80
    rows = {name: row for row, name in enumerate(documents)}
    asked = {fold(query.text) for query in held_out}
    assert len(asked) == len(held_out)
    for query in held_out:
        assert fold(query.text) not in fold(dataset.texts[rows[query.id]])
        assert fold(query.text) in fold(documents[query.id]["text"])
        assert len(dataset.texts[rows[query.id]].split()) >= 8
    assert not any(">>>" in query for query in asked)
    assert not asked & {fold(pair.query) for pair in dataset.pairs}
    assert not {pair.row for pair in dataset.pairs} & {rows[query.id] for query in held_out}


def test_a_pair_is_the_first_sentence_and_the_rest(dataset, documents):
    pairs = {pair.row: pair for pair in dataset.pairs}
    rows = {name: row for row, name in enumerate(documents)}
    strip = pairs[rows["str.strip"]]
    assert strip.query == "Return a copy of the string with leading and trailing whitespace removed"
    assert strip.title == "str.strip(chars=None)"
    assert strip.text == "If chars is given and not None, remove characters in chars instead."
    assert all(" ".join(pair.text.split()) != pair.query for pair in dataset.pairs)


def test_with_nearly_nothing_left_the_title_is_the_positive(dataset, documents):
    pairs = {pair.row: pair for pair in dataset.pairs}
    get = pairs[list(documents).index("dict.get")]
    assert (get.title, get.text) == ("dict.get(key, default=None)", "")


def test_the_first_documents_can_be_had_for_a_trial(monkeypatch):
    monkeypatch.setattr(pydocs, "read_sources", lambda stdlib: [])
    dataset = pydocs.load(DataConfig(source="pydocs", max_documents=50))
    assert dataset.documents.num_rows == len(dataset.titles) == len(dataset.texts) == 50
    assert all(pair.row < 50 for pair in dataset.pairs)
