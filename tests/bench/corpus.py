"""The texts that are searched and searched for: a folder in BEIR layout, else the embedded corpus."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from offline.config import DataConfig
from offline.data import beir, pydocs
from offline.data.dataset import Dataset
from snapshot.files import sha256, write_text
from tests.bench.cache import Cache

PROBES = 2_000
"""Queries that measure effort tables; the others are asked, so that no table is judged by its own queries."""
_MOST_QUERIES = 4_000
_STORED_CHARACTERS = 200
_FILE = "corpus.json"


@dataclass(frozen=True)
class Corpus:
    """Real texts.

    Attributes:
        source: where they are from, for people.
        key: changes when they do.
        texts: what the document tower reads of each document, beside ``titles``.
        queries: in an order that has nothing to do with that of the documents.
    """

    source: str
    key: str
    titles: list[str]
    texts: list[str]
    queries: list[str]

    @property
    def probes(self) -> list[str]:
        return self.queries[:PROBES]

    @property
    def asked(self) -> list[str]:
        return self.queries[PROBES:]

    def stored(self, row: int) -> str:
        """What is stored and answered of a document's text."""
        return self.texts[row][:_STORED_CHARACTERS]


def load_corpus(cache: Cache, data: Path) -> Corpus:
    """The folder ``data`` where it exists, else the documentation of the standard library."""
    is_folder = data.is_dir()
    key = "".join(map(sha256, beir.data_files(data))) if is_folder else f"{sys.version} {sys.platform}"
    source = data.name if is_folder else "the embedded corpus (pydocs)"

    def make(folder: Path) -> None:
        config = DataConfig(unlabelled_per_document=0)
        dataset = beir.load(data, config) if is_folder else pydocs.load(config)
        write_text(folder / _FILE, json.dumps(_content(dataset)))

    folder = cache.folder("corpus", {"key": key, "source": source, "queries": _MOST_QUERIES}, make)
    return Corpus(source=source, key=key, **json.loads((folder / _FILE).read_text(encoding="utf-8")))


def _content(dataset: Dataset) -> dict[str, list[str]]:
    queries = sorted({query.text for query in dataset.queries})
    random.Random(0).shuffle(queries)  # the same order everywhere, and not the corpus'
    return {"titles": list(dataset.titles), "texts": list(dataset.texts), "queries": queries[:_MOST_QUERIES]}
