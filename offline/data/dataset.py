"""What a source of data hands over, before it is written as the tables of ``offline.data.prepared``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Query:
    """A judged query; one that is judged in two splits is there twice."""

    id: str
    text: str
    split: Split


@dataclass(frozen=True, slots=True)
class Judgement:
    """How well a document answers a query: 0 means judged and irrelevant."""

    split: Split
    query_id: str
    row: int
    score: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A training pair: the query and the fields of a document that answers it, without what gives it away."""

    query: str
    title: str
    text: str
    row: int


@dataclass(frozen=True)
class Dataset:
    """Documents, what is known about them, and what to learn from.

    Attributes:
        documents: ``id``, ``title``, ``text`` and further columns, made with ``snapshot.documents.document_field``; uncut.
        titles: what the document tower reads of each row, beside ``texts``.
        unlabelled: queries that nobody judged.
    """

    documents: pa.Table
    titles: Sequence[str]
    texts: Sequence[str]
    pairs: Sequence[Pair]
    queries: Sequence[Query]
    judgements: Sequence[Judgement]
    unlabelled: Sequence[str] = ()


def to_table(items: Sequence[Any], schema: pa.Schema) -> pa.Table:
    """A table of dataclass instances whose attributes are named as the schema's columns."""
    return pa.table({name: [getattr(item, name) for item in items] for name in schema.names}, schema=schema)
