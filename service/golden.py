"""The proof before a snapshot serves: probes that another implementation (torch, brute force) has answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from service.encoder import Encoder
from service.engines.base import Engine, Vectors
from snapshot.errors import GoldenMismatchError
from snapshot.golden import GoldenSet as GoldenSet
from snapshot.golden import read_golden as read_golden
from snapshot.manifest import Manifest

_AGAIN = "distil, export and publish again, or activate another snapshot"


@dataclass(frozen=True, slots=True)
class Proof:
    """What the golden set showed.

    Attributes:
        queries: probes asked.
        k: hits compared per probe.
        max_cosine_distance: worst 1 - cosine between the served and the torch vector.
        recall: mean share of exact search's k best that the served search found at the default effort.
    """

    queries: int
    k: int
    max_cosine_distance: float
    recall: float


class Answers(NamedTuple):
    """What the probes gave, and the one with the worst vector."""

    proof: Proof
    worst: int


def ask(golden: GoldenSet, manifest: Manifest, encoder: Encoder, engine: Engine) -> Answers:
    """Ask the probes as a request would be asked."""
    served = encoder.encode(golden.queries)
    distances = _cosine_distances(served, golden.vectors)
    k = manifest.golden.k
    hits = engine.search(served, k, manifest.index.default_effort)
    found = [len(np.intersect1d(got, right)) / k for got, right in zip(hits.rows, golden.rows, strict=True)]
    return Answers(Proof(len(found), k, float(distances.max()), float(np.mean(found))), int(distances.argmax()))


def prove(golden: GoldenSet, manifest: Manifest, encoder: Encoder, engine: Engine) -> Proof:
    """Ask the probes, and compare; raises what ``require`` raises."""
    answers = ask(golden, manifest, encoder, engine)
    require(answers, golden, manifest)
    return answers.proof


def require(answers: Answers, golden: GoldenSet, manifest: Manifest) -> None:
    """Compare the answers with the manifest's bounds.

    Raises:
        GoldenMismatchError: a vector or the hits are further off than the manifest allows; carries the figures.
    """
    proof, worst = answers
    if not proof.max_cosine_distance <= manifest.golden.max_cosine_distance:  # so that NaN fails too
        raise GoldenMismatchError(
            f"{manifest.id}: cosine distance {proof.max_cosine_distance:.2e} to the golden vector of probe {worst} "
            f"({golden.queries[worst][:60]!r}), at most {manifest.golden.max_cosine_distance:.2e} is allowed; {_AGAIN}"
        )
    if not proof.recall >= manifest.golden.min_recall:
        raise GoldenMismatchError(
            f"{manifest.id}: recall@{proof.k} {proof.recall:.3f} of the golden hits at effort {manifest.index.default_effort}, "
            f"at least {manifest.golden.min_recall:.3f} is required; {_AGAIN}"
        )


def _cosine_distances(served: Vectors, golden: Vectors) -> Vectors:
    """1 - cosine, row by row, in double precision: the bound may be below what float32 resolves."""
    left, right = served.astype(np.float64), golden.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    with np.errstate(invalid="ignore"):  # a zero vector has no direction: NaN, which is refused
        distances: Vectors = 1.0 - np.einsum("qd,qd->q", left, right) / norms
    return distances
