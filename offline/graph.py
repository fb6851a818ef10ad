"""The exported query tower, run as the service runs it: onnxruntime and tokenizers, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from offline.ranking import Floats
from snapshot.manifest import SPACE_KEY, TextSpec

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sentence_embedding"
Feed = Mapping[str, NDArray[np.int64]]
"""What the graph reads at once: int64[b, t] by the names of ``INPUTS``."""


@dataclass(frozen=True)
class Graph:
    """An ONNX file (input_ids, attention_mask) int64[b, t] -> sentence_embedding float32[b, dim], and its tokenizer.

    Attributes:
        space: fingerprint of the document space that the file says it was made for, or None.
    """

    session: ort.InferenceSession
    tokenizer: Tokenizer
    pad_token_id: int
    add_special_tokens: bool
    dim: int
    space: str | None

    @classmethod
    def open(cls, model: Path, tokenizer: Path, spec: TextSpec, threads: int = 1, pad_token_id: int = 0) -> Graph:
        """Load both files; texts are truncated to ``spec.max_tokens``."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        return cls(
            session,
            _tokenizer(tokenizer, spec),
            pad_token_id,
            spec.add_special_tokens,
            int(session.get_outputs()[0].shape[1]),
            session.get_modelmeta().custom_metadata_map.get(SPACE_KEY),
        )

    def encode(self, texts: Sequence[str], batch_size: int = 1) -> Floats:
        """Vectors float32[n, dim] of rendered texts, L2-normalised; batches are cut in the order given."""
        batches = (texts[start : start + batch_size] for start in range(0, len(texts), batch_size))
        return np.concatenate([np.empty((0, self.dim), np.float32), *(self.run(self.feed(batch)) for batch in batches)])

    def tokenize(self, text: str) -> Feed:
        """Tokens of one rendered text."""
        return self.feed([text])

    def feed(self, texts: Sequence[str]) -> Feed:
        """Tokens of rendered texts, padded on the right to the longest."""
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=self.add_special_tokens)]
        ids = np.full((len(tokens), max(map(len, tokens))), self.pad_token_id, np.int64)
        mask = np.zeros_like(ids)
        for row, found in enumerate(tokens):
            ids[row, : len(found)] = found
            mask[row, : len(found)] = 1
        return dict(zip(INPUTS, (ids, mask), strict=True))

    def run(self, feed: Feed) -> Floats:
        """Vectors float32[b, dim]."""
        (vectors,) = self.session.run([OUTPUT], feed)
        return np.asarray(vectors, np.float32)


def cosine_distance(vectors: Floats, others: Floats) -> NDArray[np.float64]:
    """1 - cosine of each row with the same row of the other, float64[n]; NaN for a zero vector, which has no direction."""
    left, right = vectors.astype(np.float64), others.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(1 - np.einsum("nd,nd->n", left, right) / norms, np.float64)


def _tokenizer(path: Path, spec: TextSpec) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(spec.max_tokens)
    return tokenizer
