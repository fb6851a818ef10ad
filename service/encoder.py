"""From queries to vectors: the tokenizer and the ONNX graph of one snapshot."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tokenizers import Encoding, Tokenizer

from service.batching import BatchPlan, batches, measure
from snapshot.errors import IntegrityError, SpaceMismatchError
from snapshot.files import sha256
from snapshot.layout import Layout
from snapshot.manifest import SPACE_KEY, QueryTower, Space, TextSpec
from snapshot.text import render_query

_INPUTS = {"input_ids", "attention_mask"}
_OUTPUT = "sentence_embedding"
_MOST_TOKENIZERS = 2
_MAX_TOKENIZER_BYTES = 256 << 20
_HEAD_CHARACTERS, _ENOUGH_OVERFLOW = 32, 2
"""Of a long text so many characters for each token that the tower reads are tokenized, where that gives those tokens twice over,
and some: what is left out could change the last ones at most. A text of 32 kB takes 8 ms, and its head half a millisecond."""
_AGAIN = "publish the snapshot again, or activate another one"


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenized query.

    Attributes:
        ids: special tokens included.
        truncated: whether the query was longer than the manifest's ``max_tokens``.
    """

    ids: list[int]
    truncated: bool


class Encoder:
    """The query tower of one snapshot. Every step is safe from several threads at once.

    Attributes:
        dim: width of the vectors.
        batching: which queries are worth one call; every one goes alone until somebody has measured.
    """

    def __init__(self, tokenizer: Tokenizer, session: ort.InferenceSession, tower: QueryTower, dim: int) -> None:
        self._tokenizer = tokenizer
        self._session = session
        self._text = tower.text
        self._pad = tower.pad_token_id
        self.dim = dim
        self.batching = BatchPlan()

    @classmethod
    def open(cls, layout: Layout, tower: QueryTower, space: Space, threads: int, tokenizers: Tokenizers | None = None) -> Encoder:
        """Open tokenizer and graph of a verified snapshot; one call of the graph uses ``threads`` threads.

        A tokenizer that ``tokenizers`` has is not parsed again.

        Raises:
            SpaceMismatchError: the graph was distilled for another document space, or is of another width.
            IntegrityError: a file cannot be read, or the graph has other inputs and outputs.
        """
        tokenizer = (tokenizers or Tokenizers()).open(layout.tokenizer, tower.text)
        session = _open_session(layout.model, threads)
        _check_space(session, space, layout.model)
        _check_signature(session, space, layout.model)
        return cls(tokenizer, session, tower, space.dim)

    def render(self, query: str) -> str:
        """A raw query in the manifest's template: what the tokenizer reads."""
        return render_query(self._text, query)

    def tokenize(self, rendered: Sequence[str]) -> list[Tokens]:
        """Tokenize rendered queries, of long ones no more than shows what the tower reads."""
        heads = [self._head(text) for text in rendered]
        found = self._encodings(heads)
        for i, (head, text) in enumerate(zip(heads, rendered, strict=True)):
            if head is not text and len(found[i].overflowing) < _ENOUGH_OVERFLOW:
                found[i] = self._encodings([text])[0]
        most = self._text.max_tokens
        return [Tokens(ids, len(ids) >= most and bool(each.overflowing)) for each, ids in ((each, each.ids) for each in found)]

    def _head(self, text: str) -> str:
        """The whole words that the text begins with, as many as are enough of nearly all texts; itself where it is no longer."""
        most = self._text.max_tokens * _HEAD_CHARACTERS
        end = text.rfind(" ", 0, most) if len(text) > most else 0
        return text[:end] if end > 0 else text

    def _encodings(self, texts: Sequence[str]) -> list[Encoding]:
        return self._tokenizer.encode_batch_fast(texts, add_special_tokens=self._text.add_special_tokens)

    def rows(self, length: int) -> int:
        """Most queries of ``length`` tokens that are worth one call."""
        return self.batching.rows(length)

    def embed(self, ids: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """float32[n, dim], L2-normalised, of n queries that all have the same number of tokens."""
        if ids[0]:
            tokens = np.array(ids, dtype=np.int64)
            mask = np.ones_like(tokens)
        else:  # a graph needs at least one place, which then counts for nothing
            tokens = np.full((len(ids), 1), self._pad, dtype=np.int64)
            mask = np.zeros_like(tokens)
        (vectors,) = self._session.run([_OUTPUT], {"input_ids": tokens, "attention_mask": mask})
        return np.asarray(vectors, dtype=np.float32)

    def encode(self, queries: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32[n, dim] of raw queries, in their order."""
        tokens = self.tokenize([self.render(query) for query in queries])
        vectors = np.empty((len(tokens), self.dim), dtype=np.float32)
        for batch in batches([len(item.ids) for item in tokens], self.rows):
            vectors[batch] = self.embed([tokens[i].ids for i in batch])
        return vectors

    def measure_batches(self, longest: int) -> None:
        """Find out which queries are worth one call; meanwhile, and afterwards, the encoder can be used."""
        self.batching = measure(lambda rows, length: self._try(rows, length), longest)

    def close(self) -> None:
        """Give the graph's memory back; the encoder is not used again."""
        self._session = None

    def _try(self, rows: int, length: int) -> None:
        self.embed([[self._pad] * length] * rows)


class Tokenizers:
    """The latest tokenizers, by content: parsing one holds the interpreter's lock for 30 ms, and the event loop with it.

    Most snapshots have the tokenizer of the one before.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int], Tokenizer] = OrderedDict()

    def open(self, path: Path, text: TextSpec) -> Tokenizer:
        """The tokenizer at ``path``; IntegrityError where there is none."""
        key = (sha256(path), text.max_tokens)
        known = self._known.pop(key, None) or _open_tokenizer(path, text)
        self._known[key] = known
        while len(self._known) > _MOST_TOKENIZERS:
            self._known.popitem(last=False)
        return known


def _open_tokenizer(path: Path, text: TextSpec) -> Tokenizer:
    size = path.stat().st_size
    if size > _MAX_TOKENIZER_BYTES:  # parsing takes many times as much memory
        raise IntegrityError(f"{path}: {size} bytes, a tokenizer has at most {_MAX_TOKENIZER_BYTES}; {_AGAIN}")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise IntegrityError(f"{path}: not a tokenizer ({error}); {_AGAIN}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(text.max_tokens)
    return tokenizer


def _open_session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # warnings are the exporter's business
    # Idle threads that spin take the core from the request that is being answered.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # int8 on AVX2 and AVX-512 without VNNI saturates, so the same graph would give other vectors there
    # (microsoft/onnxruntime#6004); this makes it exact. Where there is VNNI, and in fp32, it changes nothing.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's errors share no narrower base
        raise IntegrityError(f"{path}: not a graph that this runtime reads ({error}); {_AGAIN}") from error


def _check_space(session: ort.InferenceSession, space: Space, path: Path) -> None:
    """Equal width is no proof: a tower of another space gives plausible vectors and wrong hits."""
    found = session.get_modelmeta().custom_metadata_map.get(SPACE_KEY, "")
    if found != space.fingerprint:
        raise SpaceMismatchError(
            f"{path}: the query tower was distilled for space {found[:12] or '(none named)'}, the documents are in space "
            f"{space.fingerprint[:12]}; distil again against these documents, or activate another snapshot"
        )


def _check_signature(session: ort.InferenceSession, space: Space, path: Path) -> None:
    inputs = {item.name for item in session.get_inputs()}
    outputs = {item.name: item.shape for item in session.get_outputs()}
    if inputs != _INPUTS or _OUTPUT not in outputs:
        raise IntegrityError(
            f"{path}: reads {sorted(inputs)} and gives {sorted(outputs)}; {sorted(_INPUTS)} and {_OUTPUT} are needed"
        )
    if outputs[_OUTPUT][-1] != space.dim:
        raise SpaceMismatchError(
            f"{path}: gives vectors of {outputs[_OUTPUT][-1]} dimensions, the manifest's space has {space.dim}; {_AGAIN}"
        )
