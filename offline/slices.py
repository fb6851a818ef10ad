"""Kinds of queries that an average hides: by length, rare words, words never met in training, and the documents' columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from offline.data.prepared import Prepared
from offline.data.unspaced import bigrams, count_words
from offline.judged import Judged

Mask = NDArray[np.bool_]
_WORD = re.compile(r"\w+")
_LENGTHS = ((1, 3), (4, 7), (8, 15), (16, None))
_RARE = ((0, 0), (1, 10), (11, 100), (101, None))
_MOST_VALUES = 30
"""A column with more different values names documents rather than kinds of them."""
_LEAST_QUERIES = 20
"""In a slice of a column; smaller ones go together."""
_OTHERS = "(others)"


@dataclass(frozen=True)
class Cut:
    """Some of the judged queries.

    Attributes:
        by: what the queries are divided by.
        mask: bool[q].
    """

    by: str
    name: str
    mask: Mask


def cut(judged: Judged, prepared: Prepared) -> list[Cut]:
    """Every division; slices without queries are left out, and so are divisions with a single slice."""
    words = [_words(text) for text in judged.texts]
    divisions = {
        "words in the query": _ranges(np.array([_length(text) for text in judged.texts]), _LENGTHS),
        "documents with its rarest word": _ranges(_rarest(words, prepared), _RARE),
        "words in training queries": _labels(_seen(words, prepared)),
        **{f"{name} of the relevant document": _labels(values) for name, values in _columns(judged, prepared.documents)},
    }
    return [
        Cut(by, name, mask)
        for by, slices in divisions.items()
        if sum(bool(mask.any()) for _, mask in slices) > 1
        for name, mask in slices
        if mask.any()
    ]


def _words(text: str) -> list[str]:
    return _WORD.findall(bigrams(text.casefold()))


def _length(text: str) -> int:
    """In words; a run of a script without spaces has about half as many as characters."""
    return count_words(" ".join(_WORD.findall(text)))


def _ranges(values: NDArray[np.int64], ranges: Iterable[tuple[int, int | None]]) -> list[tuple[str, Mask]]:
    return [
        (
            _range_name(low, high),
            np.asarray((values >= low) & (values <= (high if high is not None else values.max(initial=low)))),
        )
        for low, high in ranges
    ]


def _range_name(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} or more"
    return f"{low}" if low == high else f"{low} to {high}"


def _labels(labels: Sequence[str]) -> list[tuple[str, Mask]]:
    array = np.array(labels, dtype=object)
    return [(name, np.asarray(array == name)) for name, _ in Counter(labels).most_common()]


def _rarest(words: Sequence[Sequence[str]], prepared: Prepared) -> NDArray[np.int64]:
    """In how many documents the rarest word of each query stands, int64[q]; 0 for a query without words."""
    wanted = {word for found in words for word in found}
    counts: Counter[str] = Counter()
    for row in prepared.tower_texts.to_batches():
        for title, text in zip(row.column("title").to_pylist(), row.column("text").to_pylist(), strict=True):
            counts.update(wanted.intersection(_words(f"{title} {text}")))
    return np.array([min((counts[word] for word in found), default=0) for found in words], np.int64)


def _seen(words: Sequence[Sequence[str]], prepared: Prepared) -> list[str]:
    met = {word for query in prepared.pairs.column("query").to_pylist() for word in _words(query)}
    unseen = [sum(word not in met for word in found) for found in words]
    return ["all seen" if count == 0 else "one unseen" if count == 1 else "several unseen" for count in unseen]


def _columns(judged: Judged, documents: pa.Table) -> Iterator[tuple[str, list[str]]]:
    """Columns of few different strings or integers, with the value of each query's first relevant document."""
    rows = [min(row for row, grade in scores.items() if grade >= judged.relevance) for scores in judged.judgements]
    for field in documents.schema:
        if field.name == "id" or not (pa.types.is_string(field.type) or pa.types.is_integer(field.type)):
            continue
        column = documents.column(field.name)
        if 1 < len(column.unique()) <= _MOST_VALUES or _is_frequent(column):
            values = ["(none)" if value is None else str(value) for value in column.take(pa.array(rows, pa.int64())).to_pylist()]
            yield field.name, _lump(values)


def _is_frequent(column: pa.ChunkedArray) -> bool:
    """A string column of many values, such as brands, that the documents share widely all the same."""
    distinct = len(column.unique())
    return pa.types.is_string(column.type) and 1 < distinct <= len(column) // 20


def _lump(values: Sequence[str]) -> list[str]:
    counts: Mapping[str, int] = Counter(values)
    return [value if counts[value] >= _LEAST_QUERIES else _OTHERS for value in values]
