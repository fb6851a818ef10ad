"""Which examples go into a batch, and how they become tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from offline.config import TrainConfig
from offline.data.negatives import Negatives
from offline.distributed import rank, world
from offline.errors import TrainingError
from offline.learner import prefixed
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
        spared: rows of documents that are neither known to answer a query nor negatives of it, by its text: those that are
            the query itself, from which training would push it away, and those judged to answer it in part.
    """

    queries: Sequence[str]
    documents: Sequence[str]
    rows: NDArray[np.int64]
    known: Mapping[str, frozenset[int]] | None = None
    spared: Mapping[str, frozenset[int]] = field(default_factory=dict)

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
        return self.take(np.sort(np.random.default_rng(seed).permutation(len(self))[:size]).tolist())

    def take(self, chosen: Sequence[int]) -> Pairs:
        """Pairs of these numbers, which know the positives of all."""
        queries, documents = ([texts[i] for i in chosen] for texts in (self.queries, self.documents))
        return Pairs(queries, documents, self.rows[list(chosen)], self.positives(), self.spared)


@dataclass(frozen=True)
class Related:
    """The different document texts by number, and which of them answer a query.

    Attributes:
        texts: those of the pairs, then those of searched documents that are not among them.
        of_pair: int64[pairs], the number of each pair's document.
        of_row: the number of each searched document, by its row; empty where none are searched.
        number: of each query.
        positives: for each query the numbers of the documents of its pairs.
        known: for each query those, and every other text of documents known to be relevant to it or spared.
    """

    texts: Sequence[str]
    of_pair: NDArray[np.int64]
    of_row: Mapping[int, int]
    number: Mapping[str, int]
    positives: Mapping[str, NDArray[np.int64]]
    known: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(cls, pairs: Pairs, searched: Mapping[int, str] | None = None) -> Related:
        texts: dict[str, int] = {}
        of_pair = np.array([texts.setdefault(text, len(texts)) for text in pairs.documents], np.int64)
        of_row = {row: texts.setdefault(text, len(texts)) for row, text in (searched or {}).items()}
        of_document: dict[int, set[int]] = {row: {text} for row, text in of_row.items()}
        positives: dict[str, set[int]] = {}
        for query, row, text in zip(pairs.queries, pairs.rows.tolist(), of_pair.tolist(), strict=True):
            of_document.setdefault(row, set()).add(text)
            positives.setdefault(query, set()).add(text)
        relevant = pairs.positives()
        kin = {query: relevant[query] | pairs.spared.get(query, frozenset()) for query in positives}
        known = {query: set().union(*(of_document.get(row, set()) for row in rows)) for query, rows in kin.items()}
        return cls(
            list(texts), of_pair, of_row, {query: i for i, query in enumerate(positives)}, _arrays(positives), _arrays(known)
        )


def _arrays(sets: Mapping[str, set[int]]) -> dict[str, NDArray[np.int64]]:
    return {key: np.array(sorted(numbers), np.int64) for key, numbers in sets.items()}


class Batches(ABC):
    """Lists of example numbers, in an order drawn from (seed, epoch): a resumed run sees what it would have seen."""

    def __init__(self, batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        self._epoch = epoch

    @abstractmethod
    def __len__(self) -> int:
        """Batches in an epoch, the same in each."""

    @abstractmethod
    def __iter__(self) -> Iterator[list[int]]: ...

    def mine(self) -> Batches:
        """Those of this process where several compute together: every so-manieth."""
        return self if world() == 1 else _Share(self, rank(), world())

    def _random(self) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._epoch])


class _Share(Batches):
    """Of a list of batches those that one of ``world`` processes computes; what is left over is nobody's in this epoch."""

    def __init__(self, batches: Batches, rank: int, world: int) -> None:
        super().__init__(batches.batch_size, 0)
        self._batches, self._rank, self._world = batches, rank, world
        if len(batches) < world:
            raise TrainingError(
                f"{len(batches)} batches of {batches.batch_size} are too few for {world} processes; lower batch_size, start fewer"
            )

    def set_epoch(self, epoch: int) -> None:
        self._batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._batches) // self._world

    def __iter__(self) -> Iterator[list[int]]:
        return islice(self._batches, self._rank, len(self) * self._world, self._world)


class GroupedBatches(Batches):
    """Batches of ``batch_size`` documents, each with up to ``per_document`` of its queries.

    Documents cost most of a step: they are longer than queries. Where several queries ask for one document, it is
    encoded once for all of them, and an epoch over the same pairs costs a fraction. With one query a document this is
    plain random batching. What a document has beyond ``per_document`` queries comes in other batches of the epoch, what a
    query has beyond ``per_query`` documents perhaps in another epoch.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        batch_size: int,
        per_document: int,
        seed: int,
        queries: Sequence[str] = (),
        per_query: int | None = None,
    ) -> None:
        """``queries``: of each pair, where ``per_query`` limits how many documents one has in an epoch."""
        super().__init__(batch_size, seed)
        self._per_document = per_document
        self._rows = rows
        self._queries = np.unique(np.array(queries), return_inverse=True)[1] if per_query is not None else rows
        self._per_query = per_query
        drawn = self._drawn(np.random.default_rng(seed))
        self._length = max(1, round(sum(-(-len(group) // per_document) for group in self._groups(drawn)) / batch_size))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        random = self._random()
        groups = self._groups(self._drawn(random))
        chunks = [chunk for group in groups for chunk in self._cut(random.permutation(group))]
        order = random.permutation(len(chunks))
        for batch in np.array_split(order, len(self)):  # even sizes: a small last batch would have hardly any negatives
            yield [int(pair) for chunk in batch for pair in chunks[chunk]]

    def _drawn(self, random: np.random.Generator) -> NDArray[np.int64]:
        """The pairs of an epoch, in their order."""
        everything = np.arange(len(self._rows))
        if self._per_query is None or np.bincount(self._queries).max() <= self._per_query:
            return everything
        mixed = random.permutation(everything)
        by_query = mixed[np.argsort(self._queries[mixed], kind="stable")]
        begins = np.flatnonzero(np.diff(self._queries[by_query], prepend=-1))
        place = everything - np.repeat(begins, np.diff(begins, append=len(everything)))
        return np.sort(by_query[place < self._per_query])

    def _groups(self, pairs: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Those of one document together."""
        order = pairs[np.argsort(self._rows[pairs], kind="stable")]
        return np.split(order, np.flatnonzero(np.diff(self._rows[order])) + 1)

    def _cut(self, group: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return [group[start : start + self._per_document] for start in range(0, len(group), self._per_document)]


def grouped(pairs: Pairs, config: TrainConfig) -> GroupedBatches:
    """The batches of a recipe."""
    return GroupedBatches(
        pairs.rows, config.batch_size, config.queries_per_document, config.seed, pairs.queries, config.positives_per_query
    )


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
    """Pairs to the tokens of their queries, of their documents and of hard negatives, each text once, sorted by length.

    ``label_queries``, ``label_documents``, ``label_positives`` and ``label_known`` are the arguments of ``losses.relate``.
    """

    query_tower: SentenceTransformer
    document_tower: SentenceTransformer
    query_spec: TextSpec
    document_spec: TextSpec
    pairs: Pairs
    related: Related
    negatives: Negatives | None = None

    def __call__(self, examples: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
        chosen = [example["index"] for example in examples]
        queries = sorted(dict.fromkeys(self.pairs.queries[i] for i in chosen), key=len)
        numbers = list(dict.fromkeys([*self.related.of_pair[chosen].tolist(), *self._hard(chosen)]))
        numbers.sort(key=lambda number: len(self.related.texts[number]))
        documents = [self.related.texts[number] for number in numbers]
        return {
            **prefixed("query", tokenize(self.query_tower, self.query_spec, queries)),
            **prefixed("document", tokenize(self.document_tower, self.document_spec, documents)),
            "label_queries": torch.tensor([self.related.number[query] for query in queries]),
            "label_positives": _filled([self.related.positives[query] for query in queries]),
            "label_known": _filled([self.related.known[query] for query in queries]),
            "label_documents": torch.tensor(numbers),
        }

    def _hard(self, chosen: Sequence[int]) -> list[int]:
        if self.negatives is None:
            return []
        asked: dict[int, list[str]] = {}
        for i in chosen:
            asked.setdefault(int(self.pairs.rows[i]), []).append(self.pairs.queries[i])
        return [self.related.of_row[row] for row in self.negatives.draw(list(asked.values()), chosen[0]).tolist()]


def _filled(lines: Sequence[NDArray[np.int64]]) -> torch.Tensor:
    """int64[len(lines), longest]; -1 fills up."""
    matrix = np.full((len(lines), max(map(len, lines))), -1, np.int64)
    for place, line in enumerate(lines):
        matrix[place, : len(line)] = line
    return torch.from_numpy(matrix)


@dataclass(frozen=True)
class TextCollator:
    """Texts to their tokens, with the teacher's vectors as labels."""

    tower: SentenceTransformer
    spec: TextSpec
    texts: Sequence[str]
    vectors: NDArray[np.float32]
    """float32[len(texts), dim]"""

    def __call__(self, examples: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
        chosen = [example["index"] for example in examples]
        tokens = tokenize(self.tower, self.spec, [self.texts[i] for i in chosen])
        return {**prefixed("text", tokens), "label": torch.from_numpy(self.vectors[chosen])}
