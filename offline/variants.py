"""How people write the same query otherwise: with a typo, in another case, words in another order, a word left out.

The kinds are those of studies of how robust dense retrieval is (typos: Zhuang & Zuccon, arXiv 2108.12139; all of them as
terms of a loss: Invar-RAG, arXiv 2411.07021). Pure: a variant follows from the text, the kind and the seed alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

Kind = Literal["typo", "case", "order", "drop"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LEAST_LETTERS = 4
"""Of a word that gets a typo: three letters with one wrong are another word more often than not."""
_LEAST_WORDS = 3
"""Of a text that a word is left out of: of fewer, what is left may ask for something else."""


def make_variant(text: str, kind: Kind, random: np.random.Generator) -> str:
    """One variant of ``text``; the text itself where there is none, such as another order of a single word."""
    return _MAKERS[kind](text, random)


def vary(texts: Sequence[str], seed: int, kinds: Sequence[Kind] = KINDS) -> list[str]:
    """A variant of each text, its kind drawn among those of ``kinds`` that change it; the text itself where none does.

    What becomes of a text does not depend on the others.
    """
    return [_vary(text, seed, kinds) for text in texts]


def _vary(text: str, seed: int, kinds: Sequence[Kind]) -> str:
    random = np.random.default_rng([seed, zlib.crc32(text.encode("utf-8", "surrogatepass"))])
    for place in random.permutation(len(kinds)):
        changed = make_variant(text, kinds[place], random)
        if changed != text:
            return changed
    return text


def _typo(text: str, random: np.random.Generator) -> str:
    """A slip of the finger in one word: two letters swapped, one left out, doubled, or the key beside it."""
    words = text.split(" ")
    long = [place for place, word in enumerate(words) if sum(letter.isalpha() for letter in word) >= _LEAST_LETTERS]
    if not long:
        return text
    place = int(random.choice(long))
    words[place] = _slip(words[place], random)
    return " ".join(words)


def _slip(word: str, random: np.random.Generator) -> str:
    """The first letter stays: people rarely miss it."""
    place = int(random.choice([place for place, letter in enumerate(word) if place and letter.isalpha()]))
    before, letter, after = word[:place], word[place], word[place + 1 :]
    left_out, doubled, swapped = before + after, before + letter + letter + after, before[:-1] + letter + before[-1] + after
    beside = [before + key + after for key in _beside(letter)]
    slips = [slip for slip in (left_out, doubled, swapped, *beside) if slip != word and slip[0] == word[0]]
    return slips[int(random.integers(len(slips)))]


def _beside(letter: str) -> list[str]:
    """The keys to the right and left of a letter, in its case; none for what is not on a Latin keyboard."""
    for row in _ROWS:
        place = row.find(letter.lower())
        if place >= 0:
            keys = row[place + 1 : place + 2] + row[max(0, place - 1) : place]
            return [key.upper() if letter.isupper() else key for key in keys]
    return []


def _case(text: str, random: np.random.Generator) -> str:
    others = [other for other in dict.fromkeys((text.lower(), text.upper(), text.title())) if other != text]
    return others[int(random.integers(len(others)))] if others else text


def _order(text: str, random: np.random.Generator) -> str:
    """All words in another order."""
    words = text.split()
    if len(set(words)) < 2:
        return text
    shuffled = words
    while shuffled == words:
        shuffled = [words[place] for place in random.permutation(len(words))]
    return " ".join(shuffled)


def _drop(text: str, random: np.random.Generator) -> str:
    words = text.split()
    if len(words) < _LEAST_WORDS:
        return text
    gone = int(random.integers(len(words)))
    return " ".join(word for place, word in enumerate(words) if place != gone)


_MAKERS: Mapping[Kind, Callable[[str, np.random.Generator], str]] = {"typo": _typo, "case": _case, "order": _order, "drop": _drop}
