"""What is asked for, and what there is to buy; checked where it comes in."""

from __future__ import annotations

import math
from dataclasses import dataclass

from offline.errors import PlanError

_MOST_DOCUMENTS = 1e13
_MOST_DIM = 65_536
_MOST = 1e9


@dataclass(frozen=True)
class Demand:
    """What is asked for.

    Attributes:
        documents: to be searched.
        dim: of their vectors.
        qps: searches a second, at the peak.
        p99_ms: within which 99 of 100 are to be answered; the services' budget, too.
        k: hits of a search.
        tokens: of a document, as the document tower reads it.
        document_bytes: stored fields and filterable columns of a document.
        m: links of the HNSW graph.
        encode_boxes: that encode and build at a time.
        tower_parameters: of the document tower, without its word embeddings; 0: those of the demo's.
    """

    documents: float
    dim: float
    qps: float
    p99_ms: float
    k: float = 10
    tokens: float = 128
    document_bytes: float = 1000
    m: float = 32
    encode_boxes: float = 1
    tower_parameters: float = 0

    def __post_init__(self) -> None:
        _check("--documents", self.documents, 1, _MOST_DOCUMENTS, whole=True)
        _check("--dim", self.dim, 1, _MOST_DIM, whole=True)
        _check("--qps", self.qps, 1e-6, _MOST)
        _check("--p99-ms", self.p99_ms, 1e-3, 3_600_000)
        _check("--k", self.k, 1, 10_000, whole=True)
        _check("--tokens", self.tokens, 1, 1_000_000)
        _check("--document-bytes", self.document_bytes, 0, _MOST)
        _check("--hnsw-m", self.m, 2, 512, whole=True)
        _check("--encode-boxes", self.encode_boxes, 1, 1_000_000, whole=True)
        _check("--tower-parameters", self.tower_parameters, 0, 1e13)


@dataclass(frozen=True)
class Box:
    """A machine, and how many more than needed there are, so that one may be down."""

    memory_gb: float = 256
    cores: float = 32
    spare: float = 1

    def __post_init__(self) -> None:
        _check("--box-memory-gb", self.memory_gb, 0.5, 1_000_000)
        _check("--box-cores", self.cores, 1, 10_000, whole=True)
        _check("--spare-boxes", self.spare, 0, 1_000_000, whole=True)


def number(option: str, text: str) -> float:
    """A number as people write it: 1e9, 1_000_000, 50000.

    Raises:
        PlanError: that is none.
    """
    try:
        value = float(text)
    except ValueError as error:
        raise PlanError(f"{option} {text!r}: is no number; write it like 1000000 or 1e6") from error
    if not math.isfinite(value):
        raise PlanError(f"{option} {text}: is no finite number")
    return value


def _check(option: str, value: float, least: float, most: float, *, whole: bool = False) -> None:
    if not least <= value <= most:
        raise PlanError(f"{option} {value:g}: must lie between {least:g} and {most:g}")
    if whole and value != int(value):
        raise PlanError(f"{option} {value:g}: must be a whole number")
