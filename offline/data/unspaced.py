"""Scripts whose words have no spaces between them, and what stands for words there: two characters in a row."""

from __future__ import annotations

import re
from collections.abc import Sequence

UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Myanmar, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\uac00-\ud7af"  # Hangul, whose words have spaces between them but particles at their ends
)
"""For a class in a regular expression."""
_RUN = re.compile(f"[{UNSPACED}]+")


def bigrams(text: str) -> str:
    """The text with each run of such characters cut into pairs that overlap, as Lucene's CJKAnalyzer does; one alone stays."""
    return text if text.isascii() else _RUN.sub(lambda run: f" {_pairs(run[0])} ", text)


def _pairs(run: str) -> str:
    return " ".join(run[i : i + 2] for i in range(max(1, len(run) - 1)))


def joined(words: Sequence[str]) -> str:
    """Words with spaces between them, and pairs of ``bigrams`` that overlap as the run that they were cut from."""
    parts: list[str] = []
    before = ""
    for word in words:
        if len(before) == len(word) == 2 and before[1] == word[0] and _RUN.fullmatch(before + word):
            parts[-1] += word[1]
        else:
            parts.append(word)
        before = word
    return " ".join(parts)


def count_words(text: str) -> int:
    """Words between spaces, and of such runs half their characters."""
    if text.isascii():
        return len(text.split())
    return len(_RUN.sub(lambda run: " x" * ((len(run[0]) + 1) // 2) + " ", text).split())
