"""Which examples go into a batch, and how they become tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from offline.losses import MASKED, NEGATIVE, POSITIVE
from offline.towers import tokenize
from snapshot.manifest import TextSpec

_LENGTHS_PER_POOL = 50
"""Batches are cut by length from pools of so many: wide enough to save padding, narrow enough to stay random."""


@dataclass(frozen=True)
class Pairs:
    """Training pairs, rendered. Item i of each is pair i.

    Attributes:
        rows: the positive's row among the documents; pairs of one row share it even where their texts differ.
        known: what ``positives`` answers, where these pairs are a sample of more.
    """

    queries: Sequence[str]
    documents: Sequence[str]
    rows: NDArray[np.int64]
    known: Mapping[str, frozenset[int]] | None = None

    def __len__(self) -> int:
        return len(self.queries)

    def positives(self) -> Mapping[str, frozenset[int]]:
        """All rows known to be relevant to a query, by its text; those of pairs that were not sampled too."""
        if self.known is not None:
            return self.known
        found: dict[str, set[int]] = {}
        for query, row in zip(self.queries, self.rows.tolist(), strict=True):
            found.setdefault(query, set()).add(row)
        return {query: frozenset(rows) for query, rows in found.items()}

    def sample(self, size: int, seed: int) -> Pairs:
        """A random sample, in the order given, that knows the positives of all."""
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:size])
        queries, documents = ([texts[i] for i in chosen] for texts in (self.queries, self.documents))
        return Pairs(queries, documents, self.rows[chosen], self.positives())


class Batches(ABC):
    """Lists of example numbers, in an order drawn from (seed, epoch): a resumed run sees what it would have seen."""

    drop_last = False
    """Read by accelerate."""

    def __init__(self, batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self._epoch = epoch

    @abstractmethod
    def __len__(self) -> int:
        """Batches in an epoch, the same in each."""

    @abstractmethod
    def __iter__(self) -> Iterator[list[int]]: ...

    def _random(self) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._epoch])


class GroupedBatches(Batches):
    """Batches of ``batch_size`` documents, each with up to ``per_document`` of its queries.

    Documents cost most of a step: they are longer than queries. Where several queries ask for one document, it is
    encoded once for all of them, and an epoch over the same pairs costs a fraction. With one query a document this is
    plain random batching. What a document has beyond ``per_document`` queries comes in other batches of the epoch.
    """

    def __init__(self, rows: NDArray[np.int64], batch_size: int, per_document: int, seed: int) -> None:
        super().__init__(batch_size, seed)
        self._per_document = per_document
        order = np.argsort(rows, kind="stable")
        self._groups = np.split(order, np.flatnonzero(np.diff(rows[order])) + 1)
        self._chunks = sum(-(-len(group) // per_document) for group in self._groups)

    def __len__(self) -> int:
        return max(1, round(self._chunks / self.batch_size))

    def __iter__(self) -> Iterator[list[int]]:
        random = self._random()
        chunks = [chunk for group in self._groups for chunk in self._cut(random.permutation(group))]
        order = random.permutation(len(chunks))
        for batch in np.array_split(order, len(self)):  # even sizes: a small last batch would have hardly any negatives
            yield [int(pair) for chunk in batch for pair in chunks[chunk]]

    def _cut(self, group: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return [group[start : start + self._per_document] for start in range(0, len(group), self._per_document)]


class LengthBatches(Batches):
    """Random batches of texts of like length, which leaves little to pad."""

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, seed: int) -> None:
        super().__init__(batch_size, seed)
        self._lengths = lengths

    def __len__(self) -> int:
        return -(-len(self._lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = self._random()
        order = random.permutation(len(self._lengths))
        pool = self.batch_size * _LENGTHS_PER_POOL
        pools = (order[start : start + pool] for start in range(0, len(order), pool))
        by_length = np.concatenate([part[np.argsort(self._lengths[part], kind="stable")] for part in pools])
        batches = [by_length[start : start + self.batch_size] for start in range(0, len(by_length), self.batch_size)]
        for number in random.permutation(len(batches)):
            yield batches[number].tolist()


@dataclass(frozen=True)
class PairCollator:
    """Pairs to the tokens of their queries and of their distinct documents, each sorted by length, and how they relate."""

    query_tower: SentenceTransformer
    document_tower: SentenceTransformer
    query_spec: TextSpec
    document_spec: TextSpec
    pairs: Pairs
    positives: Mapping[str, frozenset[int]]
    valid_label_columns: tuple[str, ...] = field(default=())
    """Read by the trainer; labels are made here."""

    def __call__(self, examples: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
        chosen = sorted((example["index"] for example in examples), key=lambda i: len(self.pairs.queries[i]))
        queries = [self.pairs.queries[i] for i in chosen]
        documents = sorted(dict.fromkeys(self.pairs.documents[i] for i in chosen), key=len)
        return {
            **_prefixed("query", tokenize(self.query_tower, self.query_spec, queries)),
            **_prefixed("document", tokenize(self.document_tower, self.document_spec, documents)),
            "label": torch.from_numpy(relation(self.pairs, self.positives, chosen, documents)),
        }


def relation(
    pairs: Pairs, positives: Mapping[str, frozenset[int]], chosen: Sequence[int], documents: Sequence[str]
) -> NDArray[np.int64]:
    """int64[len(chosen), len(documents)]: POSITIVE for the pair's own document, MASKED for false negatives, else NEGATIVE.

    A document is a false negative if any row that it stands for in this batch is known to be relevant to the query.
    """
    column = {document: number for number, document in enumerate(documents)}
    columns_of_row: dict[int, set[int]] = {}
    for i in chosen:
        columns_of_row.setdefault(int(pairs.rows[i]), set()).add(column[pairs.documents[i]])
    matrix = np.full((len(chosen), len(documents)), NEGATIVE, dtype=np.int64)
    for line, i in enumerate(chosen):
        for row in positives[pairs.queries[i]] & columns_of_row.keys():
            matrix[line, list(columns_of_row[row])] = MASKED
        matrix[line, column[pairs.documents[i]]] = POSITIVE
    return matrix


@dataclass(frozen=True)
class TextCollator:
    """Texts to their tokens, with the teacher's vectors as labels."""

    tower: SentenceTransformer
    spec: TextSpec
    texts: Sequence[str]
    vectors: NDArray[np.float32]
    """float32[len(texts), dim]"""
    valid_label_columns: tuple[str, ...] = field(default=())
    """Read by the trainer; labels are made here."""

    def __call__(self, examples: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
        chosen = [example["index"] for example in examples]
        tokens = tokenize(self.tower, self.spec, [self.texts[i] for i in chosen])
        return {**_prefixed("text", tokens), "label": torch.from_numpy(self.vectors[chosen])}


def _prefixed(name: str, tokens: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The trainer tells the inputs of several texts apart by the prefix of their names."""
    return {f"{name}_{key}": tensor for key, tensor in tokens.items()}
