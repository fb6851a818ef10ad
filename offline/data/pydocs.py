"""The embedded corpus: the documentation of the Python standard library, as it is on this machine.

A document is a function, class or method with its signature and docstring. A training pair is the first sentence of a
docstring as the query, and the document without that sentence.

Held-out queries are split off by module: every top-level module that is not an everyday one goes by the hash of its name
to test, to dev or to train. The first sentence of a held-out docstring is a judged query if it stands nowhere else and
enough text remains to find the document by; what the document tower reads of these few hundred documents lacks that
sentence, for with it the answer would be a matter of literal comparison. What is stored and shown has it, and of all other
documents, among them all of the everyday modules, the tower reads everything.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from offline.config import DataConfig
from offline.data.dataset import Dataset, Judgement, Pair, Query, Split
from offline.data.docstrings import Docstring, since, take_apart, unwrap
from offline.data.pairs import fold
from offline.data.pyruntime import read_runtime
from offline.data.pysource import Entry, read_sources
from snapshot.documents import document_field

EVERYDAY = frozenset(
    [
        *("argparse", "asyncio", "bisect", "builtins", "collections", "concurrent", "contextlib", "copy", "csv", "dataclasses"),
        *("datetime", "decimal", "enum", "functools", "glob", "hashlib", "heapq", "http", "inspect", "io", "itertools", "json"),
        *("logging", "math", "multiprocessing", "operator", "os", "pathlib", "pickle", "queue", "random", "re", "shutil"),
        *("socket", "sqlite3", "statistics", "string", "subprocess", "sys", "tempfile", "textwrap", "threading", "time"),
        *("typing", "unittest", "urllib", "zipfile"),
    ]
)
"""Top-level modules that are never held out: what people try first must be found as well as it can be."""
_SHARES = 6
"""One module in so many goes to test, another to dev."""
_MIN_DOC_WORDS = 3
_QUERY_WORDS = range(4, 41)
_MIN_REST_WORDS = 8
"""With fewer words left, a document is known by its name and signature only."""


@dataclass(frozen=True, slots=True)
class _Document:
    entry: Entry
    parts: Docstring
    split: Split
    query: str
    """The first sentence, if it is fit to be one."""

    @property
    def title(self) -> str:
        return f"{self.entry.name}{self.parts.signature or self.entry.signature}"

    @property
    def has_rest(self) -> bool:
        return len(self.parts.rest.split()) >= _MIN_REST_WORDS

    @property
    def is_judged(self) -> bool:
        return self.split != "train" and bool(self.query)

    @property
    def tower_text(self) -> str:
        return unwrap(self.parts.rest if self.is_judged else self.entry.doc)


def load(config: DataConfig) -> Dataset:
    """Read the running interpreter's standard library; takes a few seconds and imports nothing with side effects."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    entries = _distinct([*read_sources(stdlib), *read_runtime()])[: config.max_documents]
    documents = _with_queries(entries)
    judged = [(row, document) for row, document in enumerate(documents) if document.query]
    return Dataset(
        documents=_table(documents),
        titles=[document.title for document in documents],
        texts=[document.tower_text for document in documents],
        pairs=[_pair(row, document) for row, document in judged if document.split == "train"],
        queries=[Query(document.entry.name, document.query, document.split) for _, document in judged],
        judgements=[Judgement(document.split, document.entry.name, row, 1) for row, document in judged],
    )


def split_of(module: str) -> Split:
    """The split that a module belongs to, by the top-level package."""
    package = module.partition(".")[0]
    if package in EVERYDAY:
        return "train"
    share = int.from_bytes(hashlib.sha256(package.encode()).digest(), "big") % _SHARES
    return "test" if share == 0 else "dev" if share == 1 else "train"


def _distinct(entries: Iterable[Entry]) -> list[Entry]:
    """Each name once, and one of those with the same last name and docstring in one module, which are inherited or copied.

    The shortest qualified name stays: ``bytes.ljust``, not ``bytearray.ljust``.
    """
    named: dict[str, Entry] = {}
    for entry in entries:
        if len(entry.doc.split()) >= _MIN_DOC_WORDS:
            named.setdefault(entry.name, entry)
    kept: dict[tuple[str, str, str], Entry] = {}
    for entry in sorted(named.values(), key=lambda entry: (len(entry.name), entry.name)):
        kept.setdefault((entry.module, entry.name.rpartition(".")[2], entry.doc), entry)
    return sorted(kept.values(), key=lambda entry: entry.name)


def _with_queries(entries: Sequence[Entry]) -> list[_Document]:
    parts = [take_apart(entry.doc) for entry in entries]
    times = Counter(fold(part.first) for part in parts)
    documents = []
    for entry, part in zip(entries, parts, strict=True):
        split = split_of(entry.module)
        fit = len(part.first.split()) in _QUERY_WORDS and not part.first.startswith(">>>")
        if split != "train":
            fit = fit and times[fold(part.first)] == 1 and _is_hidden(part)
        documents.append(_Document(entry, part, split, part.first if fit else ""))
    return documents


def _is_hidden(part: Docstring) -> bool:
    return len(part.rest.split()) >= _MIN_REST_WORDS and fold(part.first) not in fold(part.rest)


def _pair(row: int, document: _Document) -> Pair:
    """Where nearly nothing remains beside the first sentence, the title alone is the positive."""
    return Pair(document.query, document.title, document.parts.rest if document.has_rest else "", row)


def _table(documents: Sequence[_Document]) -> pa.Table:
    schema = pa.schema(
        [
            pa.field("id", pa.string()),
            document_field("title", "string", filterable=False),
            document_field("text", "string", filterable=False),
            document_field("module", "string", filterable=True),
            document_field("kind", "string", filterable=True),
            document_field("since", "string", filterable=True),
        ]
    )
    rows = [
        (each.entry.name, each.title, each.entry.doc, each.entry.module, each.entry.kind, since(each.entry.doc))
        for each in documents
    ]
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=schema)
