"""The words of all documents, and which of them set one document apart from the others."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from offline.data.unspaced import bigrams, joined

_WORD = re.compile(r"\w[\w'\-./+#]*\w|\w")
_COMMON_SHARE = 0.1
"""Words of more documents than this set none apart, whatever the language; a phrase has none at its ends."""
_BREAK = re.compile(r"[.!?;:,()\[\]\n]+\s|\n|[。！？，、；：（）「」『』]")  # noqa: RUF001 - of Chinese and Japanese
_MAX_PHRASE = 5
_READ_WORDS = 400
"""Phrases and keywords come from the beginning of a long text, where it says what it is about."""
_NUMBER = re.compile(r"[\d.,/\-]+")


@dataclass(frozen=True)
class Corpus:
    """Titles and texts of all documents, and how rare their words are."""

    titles: Sequence[str]
    texts: Sequence[str]

    def words(self, row: int) -> list[str]:
        """The words at the beginning of a document, as they are written; pairs of characters where no spaces divide them."""
        return _WORD.findall(bigrams(f"{self.titles[row]} . {self.texts[row]}"))[:_READ_WORDS]

    @cached_property
    def frequency(self) -> Counter[str]:
        """In how many documents each folded word stands."""
        counted: Counter[str] = Counter()
        for row in range(len(self.titles)):
            counted.update({word.casefold() for word in self.words(row)})
        return counted

    def rarity(self, word: str) -> float:
        """ln(documents / documents with the word); 0 for numbers, which set little apart, and for words of many documents."""
        share = max(1, self.frequency[word.casefold()]) / len(self.titles)
        return 0.0 if _NUMBER.fullmatch(word) or share > max(_COMMON_SHARE, 1.5 / len(self.titles)) else -math.log(share)

    def keywords(self, row: int, count: int) -> list[str]:
        """The rarest words of a document, each once, in the order of the text."""
        words = list({word.casefold(): word for word in reversed(self.words(row))}.values())[::-1]
        weights = [self.rarity(word) for word in words]
        best = sorted((i for i in range(len(words)) if weights[i] > 0), key=lambda i: -weights[i])[:count]
        return [words[i] for i in sorted(best)]

    def phrases(self, row: int, count: int) -> list[str]:
        """``count`` phrases of a document, the rarest first, none within another."""
        found = sorted(set(self._phrases(row)), key=lambda phrase: (-phrase[0], phrase[1]))
        kept: list[str] = []
        for _, phrase in found:
            if len(kept) == count:
                break
            if not any(phrase in other or other in phrase for other in kept):
                kept.append(phrase)
        return kept

    def _phrases(self, row: int) -> Iterator[tuple[float, str]]:
        for part in _BREAK.split(f"{self.titles[row]}\n{self.texts[row]}"[: _READ_WORDS * 8]):
            words = _WORD.findall(bigrams(part))
            weights = [self.rarity(word) for word in words]
            for start in range(len(words)):
                for stop in range(start + 2, min(start + _MAX_PHRASE, len(words)) + 1):
                    if weights[start] > 0 and weights[stop - 1] > 0:
                        yield sum(weights[start:stop]) / (stop - start), joined(words[start:stop])
