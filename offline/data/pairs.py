"""Training pairs, and texts for distillation, out of queries, judgements and documents.

No text of a held-out (dev or test) query gets into either; texts are compared without case, spacing and final punctuation.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import NamedTuple

from offline.data.dataset import Judgement, Pair, Query
from offline.data.unspaced import count_words
from offline.progress import say

_BREAK = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])(?![。！？」』）])\s*|;\s|\n")  # noqa: RUF001 - of Chinese and Japanese
_SEED = 17
_MIN_WORDS, _MAX_WORDS = 3, 64
_SPACING = 64
"""Characters that a text may have more than twice those of a query, and still be the same when folded."""


class Text(NamedTuple):
    """A query without a label; ``source`` is train, log, title or sentence."""

    text: str
    source: str


def fold(text: str) -> str:
    """What two texts have in common that differ only in case, spacing or final punctuation."""
    return " ".join(text.casefold().split()).rstrip(" .!?。！？")  # noqa: RUF001 - of Chinese and Japanese


def held_out(queries: Iterable[Query]) -> frozenset[str]:
    """The folded texts of dev and test queries."""
    return frozenset(fold(query.text) for query in queries if query.split != "train")


def from_judgements(
    queries: Iterable[Query],
    judgements: Iterable[Judgement],
    titles: Sequence[str],
    texts: Sequence[str],
    relevance: int,
    forbidden: Set[str],
) -> list[Pair]:
    """A pair for each judgement of the train split with a score of at least ``relevance``.

    Queries with the text of a held-out one are left out, and their number is told.
    """
    asked = {query.id: query.text for query in queries if query.split == "train"}
    leaked = {key for key, text in asked.items() if fold(text) in forbidden}
    if leaked:
        say(f"warning: {len(leaked)} train queries are also dev or test queries; they are left out of training")
    wanted = (entry for entry in judgements if entry.split == "train" and entry.score >= relevance)
    return [
        Pair(asked[entry.query_id], titles[entry.row], texts[entry.row], entry.row)
        for entry in wanted
        if entry.query_id not in leaked
    ]


def from_titles(titles: Sequence[str], texts: Sequence[str], forbidden: Set[str], limit: int | None = None) -> list[Pair]:
    """A pair for each document that has both: its title as the query, its text without the title as the positive.

    Of more than ``limit`` a random sample, the same each time.
    """
    pairs = []
    for row, (title, text) in enumerate(zip(titles, texts, strict=True)):
        query, positive = title.strip(), _without(title.strip(), text)
        if query and positive and fold(query) not in forbidden:
            pairs.append(Pair(query, "", positive, row))
    return _sample(pairs, limit)


def from_sentences(texts: Sequence[str], forbidden: Set[str], limit: int | None = None) -> list[Pair]:
    """A pair for each document of several sentences: the first as the query, what follows as the positive.

    The first has 3 to 64 words, and what follows at least 3. Of more than ``limit`` a random sample, the same each time.
    """
    pairs = []
    for row, text in enumerate(texts):
        query, rest = _first_sentence(text)
        positive = _without(query, rest)
        is_whole = _MIN_WORDS <= count_words(query) <= _MAX_WORDS and count_words(positive) >= _MIN_WORDS
        if is_whole and fold(query) not in forbidden:
            pairs.append(Pair(query, "", positive, row))
    return _sample(pairs, limit)


def _first_sentence(text: str) -> tuple[str, str]:
    """It and the rest; what is too short for a sentence, such as ``Dr.``, belongs to the next."""
    for end in _BREAK.finditer(text):
        if count_words(text[: end.start()]) >= _MIN_WORDS:
            return text[: end.start()].strip(), text[end.end() :].strip()
    return text.strip(), ""


def _sample(pairs: list[Pair], limit: int | None) -> list[Pair]:
    if limit is None or len(pairs) <= limit:
        return pairs
    return [pairs[i] for i in sorted(random.Random(_SEED).sample(range(len(pairs)), limit))]  # noqa: S311 - no secret


def _without(title: str, text: str) -> str:
    """``text`` where ``title`` is cut out, wherever it stands as whole words; empty if nothing else is there."""
    rest = re.sub(rf"(?<!\w){re.escape(title)}(?!\w)", " ", text, flags=re.IGNORECASE) if title else text
    return rest.strip() if re.search(r"\w", rest) else ""


def rows_of_same(queries: Iterable[str], titles: Sequence[str], texts: Sequence[str]) -> dict[str, frozenset[int]]:
    """Rows of the documents whose text or title is a query, by the query; of queries that have some."""
    folded = {query: fold(query) for query in queries}
    found: dict[str, set[int]] = {text: set() for text in folded.values() if text}
    longest = 2 * max(map(len, found), default=0) + _SPACING  # folding a long text takes long
    for row, parts in enumerate(zip(titles, texts, strict=True)):
        for part in parts:
            if part and len(part) <= longest and (text := fold(part)) in found:
                found[text].add(row)
    return {query: frozenset(found[text]) for query, text in folded.items() if found.get(text)}


def distillation_texts(sources: Iterable[tuple[str, Iterable[str]]], forbidden: Set[str]) -> list[Text]:
    """The texts of each (source, texts), each text once: under the source that comes first."""
    seen = set(forbidden) | {""}
    kept = []
    for source, texts in sources:
        for text in texts:
            folded = fold(text)
            if folded not in seen:
                seen.add(folded)
                kept.append(Text(" ".join(text.split()), source))
    return kept


def mine_sentences(texts: Iterable[str], per_document: int) -> Iterator[str]:
    """The first ``per_document`` sentences of each text.

    A sentence ends at a full stop, a semicolon or the end of its line (command lines and list items are sentences too) and
    has 3 to 64 words.
    """
    for text in texts:
        found = 0
        for part in _BREAK.split(text):
            if found == per_document:
                break
            if _MIN_WORDS <= count_words(part) <= _MAX_WORDS:
                found += 1
                yield part
