"""Hard negatives, mined before the first epoch and again while the towers learn, and written down for a resumed run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from offline.baselines import Bm25
from offline.batches import Pairs
from offline.config import NegativesConfig
from offline.data.negatives import Found, Negatives, all_false, choose, passed, read, write
from offline.data.prepared import Prepared
from offline.dev_search import Search
from offline.distributed import gather_objects, rank
from offline.progress import say
from offline.ranking import Floats, Rows, exact_top_k
from offline.trainer import Companion
from offline.watch import Average, applied


class Miner(Companion):
    """Gives ``negatives`` new candidates every ``refresh_epochs`` epochs, from ``folder/EPOCH.parquet`` where that is there."""

    def __init__(
        self,
        folder: Path,
        config: NegativesConfig,
        negatives: Negatives,
        search: Search,
        pairs: Pairs,
        steps: int,
        by_words: Sequence[Rows] | None = None,
        average: Average | None = None,
    ) -> None:
        """``steps`` is the number of steps of an epoch; ``by_words`` the places that BM25 finds for each of ``queries_of``."""
        self._folder = folder
        self._config = config
        self._negatives = negatives
        self._search = search
        self._queries = queries_of(pairs)
        positives = pairs.positives()
        self._relevant = [search.places(sorted(positives[query])) for query in self._queries]
        self._spared = [search.places(sorted(pairs.spared.get(query, ()))) for query in self._queries]
        self._steps = steps
        self._by_words = by_words
        self._average = average

    def on_epoch_begin(
        self, _: TrainingArguments, state: TrainerState, __: TrainerControl, model: torch.nn.Module, **___: object
    ) -> None:
        epoch = state.global_step // self._steps
        path = self._path(epoch)
        table = read(path) if gather_objects(path.is_file())[0] else None
        if table is None:
            with applied(self._average):
                table = self._mine(model, state.global_step, epoch)
            if rank() == 0:
                write(table, path)
        self._negatives.epoch = epoch
        self._negatives.use(table)

    def _mine(self, model: torch.nn.Module, step: int, epoch: int) -> pa.Table:
        documents = self._search.document_vectors(model, step)
        queries = self._search.query_vectors(model, self._queries)
        places = [exact_top_k(queries, documents, self._config.depth)[1]] if "towers" in self._config.sources else []
        if self._by_words is not None:
            places.append(np.stack(list(self._by_words)))
        found = Found(self._queries, self._relevant, self._not_spared(np.concatenate(places, axis=1)))
        table = choose(found, queries, documents, self._search.rows, self._config.guard)
        if not table.num_rows:
            table = self._by_words_alone(found, queries, documents) if epoch == 0 else self._kept(found, epoch)
        say(f"  {table.num_rows} hard negatives of {len(self._queries)} queries")
        return table

    def _not_spared(self, candidates: Iterable[Rows]) -> list[Rows]:
        return [each[~np.isin(each, spared)] for each, spared in zip(candidates, self._spared, strict=True)]

    def _by_words_alone(self, found: Found, queries: Floats, documents: Floats) -> pa.Table:
        """What BM25 finds, unguarded: the scores of towers that learnt nothing may all be high, and then say nothing.

        Raises:
            TrainingError: it finds nothing but known positives and documents of the same text, or is not asked.
        """
        if self._by_words is None:
            raise all_false(found, self._config.guard)
        texts, places = self._search.documents, []
        for relevant, candidates in zip(found.relevant, self._not_spared(self._by_words), strict=True):
            same = {texts[place] for place in relevant.tolist()}
            places.append(np.array([place for place in candidates.tolist() if place >= 0 and texts[place] not in same], np.int64))
        table = choose(Found(found.queries, found.relevant, places), queries, documents, self._search.rows, None)
        if not table.num_rows:
            raise all_false(found, self._config.guard)
        say(
            f"warning: the untrained towers score every candidate above {self._config.guard:g} of the positive's score; hard "
            "negatives are what BM25 finds, unguarded, until they are mined again"
        )
        return table

    def _kept(self, found: Found, epoch: int) -> pa.Table:
        """What was mined before.

        Raises:
            TrainingError: the guard let nothing through then either.
        """
        before = read(self._path(epoch - self._config.refresh_epochs))
        if before is None or not passed(before, self._config.guard):
            raise all_false(found, self._config.guard)
        say("warning: every candidate is a false negative by now; the hard negatives that were mined before are kept")
        return before

    def _path(self, epoch: int) -> Path:
        return self._folder / f"{epoch - epoch % self._config.refresh_epochs:03d}.parquet"


def queries_of(pairs: Pairs) -> list[str]:
    """The different queries, in a fixed order."""
    return sorted(set(pairs.queries))


def find_by_words(prepared: Prepared, search: Search, queries: Sequence[str], raw: Mapping[str, str], depth: int) -> list[Rows]:
    """Places of the documents that BM25 finds for each query, best first; -1 fills up. ``raw`` are queries without a template."""
    texts = prepared.tower_texts.take(search.rows)
    bm25 = Bm25(texts["title"].to_pylist(), texts["text"].to_pylist())
    return list(bm25.rank([raw[query] for query in queries], depth))
