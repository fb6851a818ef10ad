"""The first stage: read the data, check it, and write the tables that every later stage reads."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc

from offline.config import DataConfig, SourceName
from offline.data import beir, pydocs
from offline.data.corpus import Corpus
from offline.data.dataset import SPLITS, Dataset, to_table
from offline.data.pairs import Text, distillation_texts, held_out
from offline.data.prepared import PAIRS, QRELS, QUERIES, TEXTS, TOWER_TEXTS, write_table
from offline.data.queries import miners
from offline.data.query_log import read_query_log
from offline.errors import DataError
from offline.progress import say
from offline.recipe import Recipe
from offline.stages import Job, Source, Stage, Summary
from snapshot.files import sha256

_CUT = ("title", "text")
_NOTHING_MINED = {"unlabelled_per_document": 0, "spans_per_document": 0, "templates_per_document": 0, "generator": None}


def run(job: Job, learn: bool = True) -> Summary:
    """Write the tables of ``offline.data.prepared``; without ``learn``, without what is there to learn from (see ``beir.load``).

    Raises:
        DataError: the data has a fault; names file:line and what to do.
    """
    config = job.recipe.data if learn else job.recipe.data.model_copy(update=_NOTHING_MINED)
    log = read_query_log(job.source.query_log) if job.source.query_log else []
    dataset = _load(config, job.source, learn)
    texts = _texts(dataset, log, config)
    _write(dataset, texts, config, job.folder)
    if learn and not dataset.pairs:
        say(
            "warning: no training pairs: no relevant train judgement, and no two documents have a title and a text, or several "
            "sentences"
        )
    return _summary(dataset, texts)


def _load(config: DataConfig, source: Source, learn: bool) -> Dataset:
    if config.source == "pydocs":
        return pydocs.load(config)
    return beir.load(_folder(source), config, learn)


def _folder(source: Source) -> Path:
    if source.data is None:
        raise DataError("this recipe reads a folder in BEIR layout: name it with --data DIR")
    return source.data


def _texts(dataset: Dataset, log: Sequence[str], config: DataConfig) -> list[Text]:
    """Real queries, then what the documents give, each text once."""
    real: list[tuple[str, Iterable[str]]] = [
        ("train", [query.text for query in dataset.queries if query.split == "train"]),
        ("log", [*log, *dataset.unlabelled]),
    ]
    corpus = Corpus(dataset.titles, dataset.texts)
    mined = [(miner.source, miner.mine(corpus)) for miner in miners(config)]
    return distillation_texts([*real, *mined], held_out(dataset.queries))


def _write(dataset: Dataset, texts: Sequence[Text], config: DataConfig, folder: Path) -> None:
    towers = pa.table({"title": dataset.titles, "text": dataset.texts}, schema=TOWER_TEXTS)
    write_table(_cut(dataset.documents, config.stored_characters), folder / "documents.arrow")
    write_table(towers, folder / "tower_texts.arrow")
    write_table(to_table(dataset.pairs, PAIRS), folder / "pairs.arrow")
    write_table(to_table(dataset.queries, QUERIES), folder / "queries.arrow")
    write_table(to_table(dataset.judgements, QRELS), folder / "qrels.arrow")
    write_table(to_table(texts, TEXTS), folder / "texts.arrow")


def _cut(documents: pa.Table, characters: int) -> pa.Table:
    """Long titles and texts cut; columns to filter on stay whole."""
    for name in _CUT:
        index = documents.schema.get_field_index(name)
        cut = pc.utf8_slice_codeunits(documents.column(index), 0, characters)
        documents = documents.set_column(index, documents.schema.field(index), cut)
    return documents


def _summary(dataset: Dataset, texts: Sequence[Text]) -> Summary:
    queries = Counter(query.split for query in dataset.queries)
    sources = Counter(text.source for text in texts)
    return {
        "documents": dataset.documents.num_rows,
        "pairs": len(dataset.pairs),
        **{f"queries_{split}": queries[split] for split in SPLITS},
        **{f"texts_{source}": sources[source] for source in get_args(SourceName) if sources[source] or source != "generated"},
    }


def _outside(recipe: Recipe, source: Source) -> Mapping[str, Any]:
    """Hashes of the data files; for the embedded corpus, the interpreter that it is read from."""
    log = {"query_log": _hash(source.query_log)} if source.query_log else {}
    if recipe.data.source == "beir":
        folder = _folder(source)
        files = {path.relative_to(folder).as_posix(): _hash(path) for path in beir.data_files(folder)}
        return {"files": files, **log}
    if source.data is not None:
        raise DataError(f"--data {source.data}: this recipe reads the standard library's documentation; leave --data out")
    return {"python": sys.version, "implementation": platform.python_implementation(), "platform": sys.platform, **log}


def data_digest(source: Source) -> str:
    """The sha256 of a folder in BEIR layout: of the names and hashes of its files. Empty where there is no folder."""
    if source.data is None:
        return ""
    files = {path.relative_to(source.data).as_posix(): _hash(path) for path in beir.data_files(source.data)}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


STAGE = Stage(name="prepare", run=run, sections=("data",), outside=_outside, version=3)
