"""BM25, the baseline that every dense retriever must beat (Robertson and Zaragoza 2009), by bm25s."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer

from offline.data.unspaced import UNSPACED, bigrams
from offline.metrics import Rows

_K1 = 1.2
_B = 0.75
_TOKEN = rf"(?u)[{UNSPACED}]+|\b\w\w+\b"
"""As bm25s has it, and bigrams, whose vowel signs and tones are no word characters."""


class Bm25:
    """An index over title + text, with English stop words and the Snowball stemmer (k1 1.2, b 0.75, Lucene's idf).

    Of scripts without spaces the words are ``bigrams``.
    """

    def __init__(self, titles: Sequence[str], texts: Sequence[str]) -> None:
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG when imported, and prints
        self._stemmer = Stemmer.Stemmer("english")
        self._count = len(texts)
        documents = self._tokens([f"{title} {text}" for title, text in zip(titles, texts, strict=True)])
        self._index = bm25s.BM25(k1=_K1, b=_B, method="lucene")
        self._vocabulary = {token for tokens in documents for token in tokens}
        if self._vocabulary:  # bm25s divides by the mean length
            self._index.index(documents, show_progress=False)

    def scores(self, query: str) -> npt.NDArray[np.float32]:
        """Score float32[documents] of every document; 0 where no word of the query stands in it."""
        tokens = self._tokens([query])[0]
        known = [token for token in tokens if token in self._vocabulary]
        if not known:
            return np.zeros(self._count, np.float32)
        return np.asarray(self._index.get_scores(known), np.float32)

    def rank(self, queries: Sequence[str], k: int) -> Rows:
        """Rows int64[q, k] of the best documents, best first (ties: lower row first); -1 where fewer share a word."""
        return np.stack([self._best(self.scores(query), k) for query in queries])

    def _best(self, scores: npt.NDArray[np.float32], k: int) -> Rows:
        matching = np.flatnonzero(scores > 0.0)
        best = matching[np.argsort(-scores[matching], kind="stable")][:k]
        return np.pad(best, (0, k - len(best)), constant_values=-1).astype(np.int64)

    def _tokens(self, texts: list[str]) -> list[list[str]]:
        tokens: list[list[str]] = bm25s.tokenize(
            [bigrams(text) for text in texts],
            token_pattern=_TOKEN,
            stopwords="english",
            stemmer=self._stemmer,
            return_ids=False,
            show_progress=False,
            allow_empty=True,
        )
        return tokens
