"""Vectors of a request's queries: remembered, shared with whoever asks the same just now, or encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from service.batching import batches
from service.cache import Key, Known, VectorCache
from service.encoder import Tokens
from service.generation import Generation
from service.steps import Encode, Pause, Ready, Steps, Vectors, Wait
from service.walk import Walk

_CHUNK_TEXTS, _CHUNK_CHARACTERS = 64, 16_384
"""Of a list, that are tokenized at a time, one text at least: others wait meanwhile."""

_CARRIED_OVER = 1024
"""Texts, most: a second of work or two."""


def _anyway(tokens: int) -> None:
    """Encode, whatever is left of the time."""


class Queries:
    """The queries of one request, encoded by one generation."""

    def __init__(self, generation: Generation, walk: Walk, cache: VectorCache) -> None:
        self._encoder = generation.encoder
        self._tower = generation.tower
        self._walk = walk
        self._cache = cache

    def one(self, query: str, check: Callable[[int], None] = _anyway) -> Steps[Known]:
        """The vector of one query; ``check`` hears its number of tokens before it is encoded, and may raise."""
        return self._one(self._encoder.render(query), check)

    def _one(self, text: str, check: Callable[[int], None] = _anyway) -> Steps[Known]:
        if not self._cache.on:
            return (yield from self._encoded(text, check))
        key = (self._tower, text)
        while True:
            known, leads = self._cache.get_or_lead(key)
            if known is not None:
                yield Ready()
                return known
            if leads:
                return (yield from self._led(key, check))
            yield Wait(partial(self._cache.join, key))
            self._walk.enter("tokenize")

    def many(self, queries: Sequence[str]) -> Steps[list[Known]]:
        """The vectors of many queries, in their order; between two calls of the graph others may go first.

        Each call's are remembered as it ends, and what another request is encoding just then is waited for at the end: nobody
        waits for more than one call of this one, and it does not wait with a text that others wait for.
        """
        texts = [self._encoder.render(query) for query in queries]
        known = self._remembered(texts)
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        for chunk in _chunks(missing):
            self._walk.enter("tokenize")
            tokens = self._encoder.tokenize(chunk)
            for batch in batches([len(each.ids) for each in tokens], self._encoder.rows):
                self._walk.enter("encode")
                known |= self._together({chunk[i]: tokens[i] for i in batch})
                yield Pause()
        for text in missing:
            if text not in known:
                yield Wait(partial(self._cache.join, (self._tower, text)))
                self._walk.enter("tokenize")
                known[text] = yield from self._one(text)
        return [known[text] for text in texts]

    def _together(self, texts: Mapping[str, Tokens]) -> dict[str, Known]:
        """Vectors of texts of one length, in one call of the graph; without those that others are encoding just now."""
        known, mine = self._taken(texts)
        if not mine:
            return known
        try:
            vectors = self._encoder.embed([texts[text].ids for text in mine])
        except BaseException:  # as below
            for text in mine:
                self._cache.abandon((self._tower, text))
            raise
        for row, text in enumerate(mine):
            known[text] = _own(vectors[row : row + 1], texts[text])
            self._cache.put((self._tower, text), known[text])
        return known

    def _taken(self, texts: Iterable[str]) -> tuple[dict[str, Known], list[str]]:
        """What others have found out since, and what is to be encoded here: whoever is given it leads."""
        known: dict[str, Known] = {}
        mine: list[str] = []
        for text in texts:
            found, leads = self._cache.get_or_lead((self._tower, text)) if self._cache.on else (None, True)
            if found is not None:
                known[text] = found
            elif leads:
                mine.append(text)
        return known, mine

    def _led(self, key: Key, check: Callable[[int], None]) -> Steps[Known]:
        try:
            known = yield from self._encoded(key[1], check)
        except BaseException:  # GeneratorExit too: whoever waits must not wait in vain
            self._cache.abandon(key)
            raise
        self._cache.put(key, known)
        return known

    def _encoded(self, text: str, check: Callable[[int], None]) -> Steps[Known]:
        [tokens] = self._encoder.tokenize([text])
        check(len(tokens.ids))
        vector = yield Encode(self._encoder, tokens.ids)
        assert vector is not None  # noqa: S101 - what an Encode is answered with
        return _own(vector, tokens)

    def _remembered(self, texts: Sequence[str]) -> dict[str, Known]:
        if not self._cache.on:
            return {}
        found = ((text, self._cache.get((self._tower, text))) for text in dict.fromkeys(texts))
        return {text: known for text, known in found if known is not None}


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """In their order, what is tokenized at a time."""
    chunk: list[str] = []
    characters = 0
    for text in texts:
        if chunk and (len(chunk) == _CHUNK_TEXTS or characters + len(text) > _CHUNK_CHARACTERS):
            yield chunk
            chunk, characters = [], 0
        chunk.append(text)
        characters += len(text)
    if chunk:
        yield chunk


def carry_over(cache: VectorCache, before: Generation, new: Generation, pace: Callable[[], None]) -> None:
    """Encode with the new tower what users ask again and again, so that a swap is not the moment when nothing is remembered.

    Where queries are rendered in another way it is too late: what is remembered is what was rendered.
    """
    same_text = before.manifest.query_tower.text == new.manifest.query_tower.text
    if not cache.on or before.tower == new.tower or not same_text:
        return
    for text in cache.head(before.tower, _CARRIED_OVER):
        pace()
        [tokens] = new.encoder.tokenize([text])
        cache.put((new.tower, text), _own(new.encoder.embed([tokens.ids]), tokens))


def _own(vector: Vectors, tokens: Tokens) -> Known:
    """A copy of its own: a part of a batch would keep the whole batch in memory."""
    return Known(vector.copy(), len(tokens.ids), tokens.truncated)
