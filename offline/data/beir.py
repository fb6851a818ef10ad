"""A folder in BEIR layout: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/{train,dev,test}.tsv``, each may end in ``.gz``.

Thakur et al., "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information Retrieval Models" (arXiv 2104.08663).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from offline.config import DataConfig
from offline.data import pairs
from offline.data.dataset import SPLITS, Dataset, Judgement, Pair, Query, Split
from offline.data.faults import Faults
from offline.data.lines import read_lines, read_objects
from offline.data.metadata import MetadataColumns
from offline.errors import DataError
from offline.progress import say, track
from snapshot.documents import document_field

_LAYOUT = "a folder in BEIR layout has corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv, each may end in .gz"
_HEADER = ["query-id", "corpus-id", "score"]
_FIELDS = frozenset({"_id", "title", "text", "metadata"})
_FEWEST = 2
"""Pairs that can be contrasted."""
_TOLD = 5
"""Names in a warning."""
_MAX_SCORE = 20
"""nDCG's gain, 2^score - 1, must stay within pytrec_eval's 32 bits; real grades end at 3 to 5."""


@dataclass
class _Corpus:
    rows: dict[str, int]
    """Row by ``_id``, also of documents that ``data.max_documents`` leaves out."""
    titles: list[str]
    texts: list[str]
    metadata: MetadataColumns
    empty: set[str]
    """``_id`` of documents without title and text, which are left out."""


def data_files(folder: Path) -> list[Path]:
    """Every file of ``folder`` that ``load`` reads.

    Raises:
        DataError: the folder is not in BEIR layout; says what is expected and what is there.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: {'is a file' if folder.exists() else 'does not exist'}; {_LAYOUT}")
    corpus, queries = _find(folder / "corpus.jsonl"), _find(folder / "queries.jsonl")
    qrels = [path for split in SPLITS if (path := _find(folder / "qrels" / f"{split}.tsv"))]
    if corpus is None:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise DataError(f"{folder}: no corpus.jsonl; {_LAYOUT}. There is: {there}")
    if qrels and queries is None:
        raise DataError(f"{folder}: {qrels[0].name} judges queries, but there is no queries.jsonl; add it, or remove qrels")
    return [path for path in (corpus, queries, *qrels) if path]


def load(folder: Path, config: DataConfig, learn: bool = True) -> Dataset:
    """Read and check the whole folder.

    Documents without title and text, queries without text, and judgements of what is not there are left out with a warning if
    they are few. Where nothing is to be learnt from it, no training pairs are made, and there may be any number of such
    judgements: they outlive documents that are dropped.

    Training pairs are the relevant judgements of the train split or, without one, made of titles and texts, or of sentences.
    Queries that no split judges count as unlabelled.

    Raises:
        DataError: at the first fault, with file:line and what to do about it.
    """
    files = data_files(folder)
    corpus = _read_corpus(files[0], config.leave_out_faulty)
    empty: set[str] = set()
    texts = _read_queries(path, empty, config.leave_out_faulty) if (path := _find(folder / "queries.jsonl")) else {}
    judged = {split: path for split in SPLITS if (path := _find(folder / "qrels" / f"{split}.tsv"))}
    _warn_of_unread(folder / "qrels", judged.values())
    known = _Known(texts, corpus.rows, empty, corpus.empty, any_may_lack=config.leave_out_faulty or not learn)
    asked: set[str] = set()
    judgements = [entry for split, path in judged.items() for entry in _read_qrels(path, split, known, asked)]
    unlabelled = [text for key, text in texts.items() if key not in asked]
    dataset = _assemble(corpus, texts, judgements, unlabelled, config)
    return replace(dataset, pairs=_pairs(dataset, "train" in judged, config)) if learn else dataset


def _pairs(dataset: Dataset, has_train: bool, config: DataConfig) -> list[Pair]:
    held_out = pairs.held_out(dataset.queries)
    if not has_train:
        return _without_train(dataset, held_out, config.max_title_pairs)
    _warn_of_overlap(dataset.judgements, config.relevance)
    return pairs.from_judgements(dataset.queries, dataset.judgements, dataset.titles, dataset.texts, config.relevance, held_out)


def _without_train(dataset: Dataset, held_out: Set[str], limit: int | None) -> list[Pair]:
    """Of titles and texts; where fewer than two documents have both, of first sentences and what follows them."""
    found = pairs.from_titles(dataset.titles, dataset.texts, held_out, limit)
    if len(found) >= _FEWEST:
        return found
    sentences = pairs.from_sentences(dataset.texts, held_out, limit)
    if len(sentences) < _FEWEST:
        return found
    say(f"warning: neither a train split nor titles: {len(sentences)} training pairs are first sentences and what follows them")
    return sentences


def _assemble(
    corpus: _Corpus, texts: Mapping[str, str], judgements: Sequence[Judgement], unlabelled: Sequence[str], config: DataConfig
) -> Dataset:
    count = min(len(corpus.rows), config.max_documents or len(corpus.rows))
    kept = [entry for entry in judgements if entry.row < count]
    queries = [Query(key, texts[key], split) for split, key in dict.fromkeys((entry.split, entry.query_id) for entry in kept)]
    return Dataset(
        documents=_documents(corpus, count),
        titles=corpus.titles[:count],
        texts=corpus.texts[:count],
        pairs=(),
        queries=queries,
        judgements=kept,
        unlabelled=unlabelled,
    )


def _find(path: Path) -> Path | None:
    """``path`` or ``path.gz``, whichever is there."""
    packed = path.with_name(f"{path.name}.gz")
    if path.is_file() and packed.is_file():
        raise DataError(f"{path}: is there both plain and as {packed.name}; remove one of them")
    return next((found for found in (path, packed) if found.is_file()), None)


def _read_corpus(path: Path, leave_out_all: bool) -> _Corpus:
    corpus = _Corpus({}, [], [], MetadataColumns(), set())
    lines: dict[str, int] = {}
    unread: set[str] = set()
    faults = Faults(path, "documents", leave_out_all)
    for line, record in track(read_objects(path), f"reading {path.name}"):
        where = f"{path}:{line}"
        unread.update(record.keys() - _FIELDS)
        key = _id(record, where, lines, line)
        title, text = _string(record, "title", where), _string(record, "text", where)
        if not title.strip() and not text.strip():
            corpus.empty.add(key)
            faults.add(line, f"document {key!r} has neither title nor text", "Give it one of them, or remove the line")
            continue
        corpus.metadata.add(record.get("metadata"), where, line)
        corpus.rows[key] = len(corpus.rows)
        corpus.titles.append(title)
        corpus.texts.append(text)
    faults.settle(len(lines))
    _warn_of_unread_fields(path, sorted(unread))
    if not corpus.rows:
        raise DataError(f'{path}: holds no document; write one JSON object a line: {{"_id": "1", "title": "...", "text": "..."}}')
    return corpus


def _read_queries(path: Path, empty: set[str], leave_out_all: bool) -> dict[str, str]:
    """Text by ``_id``; ``empty`` grows by those without text, which are left out."""
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    faults = Faults(path, "queries", leave_out_all)
    for line, record in read_objects(path):
        where = f"{path}:{line}"
        key = _id(record, where, lines, line)
        text = _string(record, "text", where)
        if text.strip():
            texts[key] = text
        else:
            empty.add(key)
            faults.add(line, f"query {key!r} has no text", "Write it in 'text', or remove the line")
    faults.settle(len(lines))
    return texts


@dataclass(frozen=True)
class _Known:
    """What judgements may name: queries, and documents by row.

    Attributes:
        empty_queries: those that are left out.
        empty_documents: likewise.
        any_may_lack: whether any number of judgements may name what is not there.
    """

    queries: Collection[str]
    rows: Mapping[str, int]
    empty_queries: Collection[str]
    empty_documents: Collection[str]
    any_may_lack: bool

    def missing(self, query: str, document: str) -> tuple[str, str] | None:
        """What a judgement names that is not there, and what to do about it."""
        if query in self.empty_queries:
            return f"query {query!r} is left out", "Give it a text, or remove the line"
        if query not in self.queries:
            return f"query {query!r} is not in queries.jsonl", "Add it there, or remove the line"
        if document in self.empty_documents:
            return f"document {document!r} is left out", "Give it a title or a text, or remove the line"
        if document not in self.rows:
            return f"document {document!r} is not in corpus.jsonl", "Add it there, or remove the line"
        return None

    def follows(self, query: str, document: str) -> bool:
        """Whether a judgement lacks what it names only since that is left out."""
        is_query = query in self.empty_queries or query in self.queries
        return is_query and (document in self.empty_documents or (query in self.empty_queries and document in self.rows))


def _read_qrels(path: Path, split: Split, known: _Known, asked: set[str]) -> list[Judgement]:
    """``asked`` grows by every query that is judged, also by judgements that are left out: it may be held out."""
    scores: dict[tuple[str, str], int] = {}
    left_out: set[tuple[str, str]] = set()
    faults = Faults(path, "judgements", known.any_may_lack)
    for line, text in read_lines(path):
        where = f"{path}:{line}"
        cells = text.split("\t")
        if line == 1:
            _check_header(cells, where)
        elif text.strip():
            query, document, score = _judgement(cells, where)
            if (query, document) not in scores and (missing := known.missing(query, document)):
                faults.add(line, *missing, follows=known.follows(query, document))
                left_out.add((query, document))
            if scores.setdefault((query, document), score) != score:
                raise DataError(f"{where}: judges {query!r} and {document!r} a second time, with another score; remove one line")
    if not scores:
        raise DataError(f"{path}: judges nothing; add lines of query-id, corpus-id, score below that header, or remove the file")
    faults.settle(len(scores))
    asked.update(query for query, _ in scores)
    return [
        Judgement(split, query, known.rows[document], score)
        for (query, document), score in scores.items()
        if (query, document) not in left_out
    ]


def _check_header(cells: Sequence[str], where: str) -> None:
    if [cell.strip() for cell in cells] != _HEADER:
        raise DataError(f"{where}: the header is {cells!r}; it must be query-id, corpus-id, score, separated by tabs")


def _judgement(cells: Sequence[str], where: str) -> tuple[str, str, int]:
    if len(cells) != len(_HEADER):
        raise DataError(f"{where}: {len(cells)} columns; there must be 3, separated by tabs: query-id, corpus-id, score")
    query, document, score = cells
    if not re.fullmatch(r"-?[0-9]{1,9}", score.strip()) or int(score) > _MAX_SCORE:
        raise DataError(f"{where}: score {score!r}; it must be a whole number of at most {_MAX_SCORE}, 0 or less if irrelevant")
    return query, document, max(0, int(score))


def _id(record: Mapping[str, Any], where: str, lines: dict[str, int], line: int) -> str:
    """The ``_id``, noted in ``lines``; whole numbers are taken as they are written."""
    value = record.get("_id")
    key = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(key, str) or not key.strip():
        raise DataError(f"{where}: no '_id' (got {value!r}); give every line a string that is its own")
    if key in lines:
        raise DataError(f"{where}: _id {key!r} is also that of line {lines[key]}; ids must be unique")
    lines[key] = line
    return key


def _string(record: Mapping[str, Any], name: str, where: str) -> str:
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: {name!r} is a {type(value).__name__}; it must be a string")
    return value


def _documents(corpus: _Corpus, count: int) -> pa.Table:
    columns = [
        (pa.field("id", pa.string()), list(corpus.rows)[:count]),
        (document_field("title", "string", filterable=False), corpus.titles[:count]),
        (document_field("text", "string", filterable=False), corpus.texts[:count]),
        *corpus.metadata.columns(count),
    ]
    return pa.table([values for _, values in columns], schema=pa.schema([field for field, _ in columns]))


def _warn_of_unread(folder: Path, read: Collection[Path]) -> None:
    unread = sorted(path.name for path in folder.glob("*") if path not in read)
    if unread:
        say(f"warning: {folder}: not read: {', '.join(unread[:_TOLD])}; splits are named train.tsv, dev.tsv and test.tsv")


def _warn_of_unread_fields(path: Path, names: Sequence[str]) -> None:
    if names:
        told = ", ".join(names[:_TOLD]) + (f" and {len(names) - _TOLD} more" if len(names) > _TOLD else "")
        say(f"warning: {path}: ignored: {told}; put what is to be shown and filtered on into the object metadata of its document")


def _warn_of_overlap(judgements: Sequence[Judgement], relevance: int) -> None:
    """Documents that train queries are about should not be what the held-out queries ask for."""
    relevant = [entry for entry in judgements if entry.score >= relevance]
    trained = {entry.row for entry in relevant if entry.split == "train"}
    wanted = Counter(split for split, row in {(entry.split, entry.row) for entry in relevant})
    shared = Counter(split for split, row in {(entry.split, entry.row) for entry in relevant} if row in trained)
    for split in ("dev", "test"):
        if shared[split]:
            say(
                f"warning: {shared[split]} of the {wanted[split]} relevant documents of {split} are also relevant to train "
                f"queries; figures on {split} will flatter the trained towers"
            )
