"""From queries to vectors: the tokenizer and the ONNX graph of one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tokenizers import Tokenizer

from snapshot.errors import IntegrityError, SpaceMismatchError
from snapshot.layout import Layout
from snapshot.manifest import SPACE_KEY, QueryTower, Space, TextSpec
from snapshot.text import render_query

MAX_BATCH = 32
"""Queries that go through the graph together: bounds the memory of its inner values, whatever a caller asks for."""

_INPUTS = {"input_ids", "attention_mask"}
_OUTPUT = "sentence_embedding"
_AGAIN = "publish the snapshot again, or activate another one"


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the graph reads for n queries, padded on the right to the longest, t.

    Attributes:
        ids: int64[n, t].
        mask: int64[n, t], 1 for tokens, 0 for padding.
        counts: tokens used of each query, special tokens included.
        truncated: whether a query was longer than the manifest's ``max_tokens``.
    """

    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.int64]
    counts: list[int]
    truncated: list[bool]


class Encoder:
    """The query tower of one snapshot. Both steps are safe from several threads at once."""

    def __init__(self, tokenizer: Tokenizer, session: ort.InferenceSession, tower: QueryTower, dim: int) -> None:
        self._tokenizer = tokenizer
        self._session = session
        self._text = tower.text
        self._pad = tower.pad_token_id
        self.dim = dim

    @classmethod
    def open(cls, layout: Layout, tower: QueryTower, space: Space, threads: int) -> Encoder:
        """Open tokenizer and graph of a verified snapshot; one call of the graph uses ``threads`` threads.

        Raises:
            SpaceMismatchError: the graph was distilled for another document space, or is of another width.
            IntegrityError: a file cannot be read, or the graph has other inputs and outputs.
        """
        tokenizer = _open_tokenizer(layout.tokenizer, tower.text)
        session = _open_session(layout.model, threads)
        _check_space(session, space, layout.model)
        _check_signature(session, space, layout.model)
        return cls(tokenizer, session, tower, space.dim)

    def tokenize(self, queries: Sequence[str]) -> Tokens:
        """Render raw queries by the manifest's template and tokenize them."""
        texts = [render_query(self._text, query) for query in queries]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=self._text.add_special_tokens)
        counts = [len(encoding.ids) for encoding in encodings]
        shape = (len(texts), max(counts, default=0) or 1)
        ids, mask = np.full(shape, self._pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for row, encoding in enumerate(encodings):
            ids[row, : counts[row]], mask[row, : counts[row]] = encoding.ids, 1
        return Tokens(ids, mask, counts, [bool(encoding.overflowing) for encoding in encodings])

    def embed(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """float32[n, dim], L2-normalised."""
        vectors = np.empty((len(tokens.ids), self.dim), dtype=np.float32)
        for start in range(0, len(vectors), MAX_BATCH):
            part = slice(start, start + MAX_BATCH)
            longest = max(tokens.counts[part]) or 1  # padding is computed like tokens are, so none is kept for nothing
            inputs = {"input_ids": tokens.ids[part, :longest], "attention_mask": tokens.mask[part, :longest]}
            (vectors[part],) = self._session.run([_OUTPUT], inputs)
        return vectors

    def close(self) -> None:
        """Give the graph's memory back; the encoder is not used again."""
        self._session = None


def _open_tokenizer(path: Path, text: TextSpec) -> Tokenizer:
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
