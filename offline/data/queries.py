"""Query-like texts out of documents, for distillation: the student must know what users may ask, and few users were logged.

Each source is a ``Miner``: from a ``Corpus`` to texts. All are pure, so that one recipe gives the same texts everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from offline.config import DataConfig, SourceName
from offline.data.corpus import Corpus
from offline.data.generator import Generator
from offline.data.pairs import mine_sentences
from offline.data.unspaced import joined

_MAX_KEYWORDS = 4


class Miner(Protocol):
    """A source of texts for distillation."""

    @property
    def source(self) -> SourceName: ...

    def mine(self, corpus: Corpus) -> Iterator[str]:
        """Texts that users might have asked."""


def miners(config: DataConfig) -> list[Miner]:
    """Those that the recipe asks for, those nearest to real queries first: a text is counted under its first source."""
    found: list[Miner] = [Titles()]
    if config.generator is not None:
        found.append(Generator(config.generator))
    found.append(Sentences(config.unlabelled_per_document))
    found.append(Spans(config.spans_per_document))
    found.append(Templates(config.templates, config.templates_per_document))
    return found


@dataclass(frozen=True)
class Titles:
    """Every title as it is."""

    source: SourceName = "title"

    def mine(self, corpus: Corpus) -> Iterator[str]:
        yield from corpus.titles


@dataclass(frozen=True)
class Sentences:
    """The first ``per_document`` sentences of each text."""

    per_document: int
    source: SourceName = "sentence"

    def mine(self, corpus: Corpus) -> Iterator[str]:
        yield from mine_sentences(corpus.texts, self.per_document)


@dataclass(frozen=True)
class Spans:
    """Short queries of the words that set a document apart: by turns a phrase, and keywords in the order of the text.

    A phrase is 2 to 5 words in a row, neither beginning nor ending with a word that many documents have, and is preferred by
    the mean rarity of its words (inverse document frequency), as in RAKE (Rose et al., 2010).
    """

    per_document: int
    source: SourceName = "span"

    def mine(self, corpus: Corpus) -> Iterator[str]:
        for row in range(len(corpus.titles) if self.per_document else 0):
            yield from self._of(corpus, row)

    def _of(self, corpus: Corpus, row: int) -> Iterator[str]:
        random = np.random.default_rng([0, row])
        phrases = corpus.phrases(row, (self.per_document + 1) // 2)
        for number in range(self.per_document):
            if number % 2 == 0 and number // 2 < len(phrases):
                yield phrases[number // 2]
            else:
                words = corpus.keywords(row, 2 * _MAX_KEYWORDS)
                length = int(random.integers(1, _MAX_KEYWORDS + 1))
                chosen = np.sort(random.permutation(len(words))[:length])
                yield joined([words[i] for i in chosen])


@dataclass(frozen=True)
class Templates:
    """Each title in ``per_document`` of the templates, by turns."""

    templates: Sequence[str]
    per_document: int
    source: SourceName = "template"

    def mine(self, corpus: Corpus) -> Iterator[str]:
        for row, title in enumerate(corpus.titles if self.templates else ()):
            for number in range(min(self.per_document, len(self.templates)) if title.strip() else 0):
                template = self.templates[(row + number) % len(self.templates)]
                words = [word for word in corpus.keywords(row, _MAX_KEYWORDS) if word.casefold() not in title.casefold()]
                yield template.format(title=title.strip(), keywords=" ".join(words[:2]))
