"""What a student learns from: texts, how many of each source, and the teacher's vectors of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from offline.config import DistillConfig
from offline.data.prepared import Prepared
from offline.errors import TrainingError
from offline.towers import encode
from snapshot.files import atomic_write
from snapshot.manifest import TextSpec
from snapshot.text import render_query

_SHARD_ROWS = 8192
REAL = ("train", "log")
"""Sources of real queries: kept before those made of documents where the recipe limits the number of texts."""


@dataclass(frozen=True)
class Lesson:
    """Rendered texts and the teacher's vectors of them, float32[len(texts), dim]; ``given`` counts the texts by source."""

    texts: Sequence[str]
    given: Mapping[str, int]
    vectors: NDArray[np.float32]


def choose_texts(prepared: Prepared, spec: TextSpec, config: DistillConfig) -> tuple[list[str], Mapping[str, int]]:
    """Texts to learn on, rendered and de-duplicated, and how many each source gave.

    With ``config.shares`` by those, else real queries first, then a random sample of the rest.

    Raises:
        TrainingError: there are none.
    """
    table = prepared.texts
    source_of: dict[str, str] = {}
    for text, source in zip(table["text"].to_pylist(), table["source"].to_pylist(), strict=True):
        source_of.setdefault(render_query(spec, text), source)
    source_of.pop("", None)
    texts = list(source_of)
    order = [texts[i] for i in np.random.default_rng(config.seed).permutation(len(texts))]
    quota = quotas(Counter(source_of.values()), config)
    chosen = [text for text, rank in zip(order, _ranks(order, source_of), strict=True) if rank < quota[source_of[text]]]
    chosen.sort(key=lambda text: source_of[text] not in REAL)
    if len(chosen) < 2:
        raise TrainingError(
            f"{prepared.folder}: {len(chosen)} texts to distil on; at least 2 are needed. Give queries with "
            "--query-log, or raise data.unlabelled_per_document"
        )
    return chosen, Counter(source_of[text] for text in chosen)


def quotas(there: Mapping[str, int], config: DistillConfig) -> dict[str, int]:
    """How many texts of each source are used, of those that are there.

    A source with fewer texts than its share gives all of them, and the others what is missing, by their shares.
    """
    total = min(config.max_texts or sum(there.values()), sum(there.values()))
    if not config.shares:
        real = {source: count for source, count in there.items() if source in REAL}
        mined = {source: count for source, count in there.items() if source not in REAL}
        first = _divide(total, real, real)
        return first | _divide(total - sum(first.values()), mined, mined)
    return dict.fromkeys(there, 0) | _divide(total, there, {source: share for source, share in config.shares.items() if share})


def _divide(total: int, there: Mapping[str, int], shares: Mapping[Any, float]) -> dict[str, int]:
    given: dict[str, int] = {}
    open_shares = {source: float(share) for source, share in shares.items() if there.get(source, 0)}
    while open_shares:
        left, weight = total - sum(given.values()), sum(open_shares.values())
        short = [source for source, share in open_shares.items() if there[source] <= left * share / weight]
        if not short:
            return given | _rounded({source: left * share / weight for source, share in open_shares.items()})
        for source in short:
            given[source] = there[source]
            del open_shares[source]
    return given


def _rounded(exact: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers with the same sum, each at most 1 away: what is missing goes to the largest remainders."""
    whole = {source: int(value) for source, value in exact.items()}
    missing = round(sum(exact.values())) - sum(whole.values())
    for source in sorted(exact, key=lambda source: whole[source] - exact[source])[:missing]:
        whole[source] += 1
    return whole


def _ranks(texts: Sequence[str], source_of: Mapping[str, str]) -> Iterator[int]:
    """For each text, how many of its source come before it."""
    seen: Counter[str] = Counter()
    for text in texts:
        yield seen[source_of[text]]
        seen[source_of[text]] += 1


def corpus_texts(prepared: Prepared, spec: TextSpec, config: DistillConfig) -> list[str]:
    """What else has words that users may ask with: all texts for distillation, and the documents."""
    if config.vocabulary == "whole":
        return []
    tables = (prepared.texts["text"], prepared.tower_texts["title"], prepared.tower_texts["text"])
    return [render_query(spec, text) for column in tables for text in column.to_pylist()]


def teach(teacher: SentenceTransformer, spec: TextSpec, texts: list[str], folder: Path) -> NDArray[np.float32]:
    """The teacher's vectors of all texts, float32[n, dim], in shards that a resumed run does not compute again."""
    shards = []
    for number, start in enumerate(range(0, len(texts), _SHARD_ROWS)):
        path = folder / f"{number:05d}.npy"
        if not path.is_file():
            vectors = encode(
                teacher, spec, texts[start : start + _SHARD_ROWS], progress=f"teacher, from text {start} of {len(texts)}"
            )
            with atomic_write(path) as handle:
                np.save(handle, vectors)
        shards.append(np.load(path))
    return np.concatenate(shards)
