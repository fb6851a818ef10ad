"""What towers are trained to lower: contrast between pairs in stage 1, distance to the teacher in stage 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional

NEGATIVE, POSITIVE, MASKED = 0, 1, 2
"""How a query of the batch relates to a document of the batch. Masked: known to be relevant too, or the same text, so
that it may not count as a negative."""

_PIECE_ROWS = 64


def info_nce(queries: Tensor, documents: Tensor, relation: Tensor, temperature: float) -> Tensor:
    """InfoNCE over in-batch negatives (van den Oord et al., arXiv 1807.03748; for retrieval DPR, arXiv 2004.04906).

    -log exp(s+ / t) / (exp(s+ / t) + sum of exp(s- / t)), averaged over the queries, where s is the inner product.

    Args:
        queries: float[b, dim], L2-normalised.
        documents: float[d, dim], L2-normalised.
        relation: int[b, d] of NEGATIVE, POSITIVE, MASKED, with exactly one POSITIVE in each row.
        temperature: t; smaller means that hard negatives weigh more.
    """
    scores = (queries.float() @ documents.float().T / temperature).masked_fill(relation == MASKED, -torch.inf)
    return functional.cross_entropy(scores, (relation == POSITIVE).int().argmax(dim=1))


def prefix(vectors: Tensor, width: int) -> Tensor:
    """The first ``width`` numbers of each vector, L2-normalised: float[n, width]."""
    return functional.normalize(vectors[:, :width], dim=1)


def over_widths(loss: Callable[[Tensor, Tensor], Tensor], widths: Sequence[int], left: Tensor, right: Tensor) -> Tensor:
    """Mean of ``loss`` over whole vectors and their first numbers (Matryoshka, Kusupati et al., arXiv 2205.13147).

    Args:
        loss: of two sets of L2-normalised vectors.
        widths: below the whole width, in any order; empty gives the plain loss.
        left: float[n, dim].
        right: float[m, dim].
    """
    losses = [loss(left, right), *(loss(prefix(left, width), prefix(right, width)) for width in widths)]
    return torch.stack(losses).mean()


def distillation(student: Tensor, teacher: Tensor, mse_weight: float, cosine_weight: float) -> Tensor:
    """mse_weight * squared error + cosine_weight * (1 - cosine), averaged over the batch (ScalingNote, arXiv 2411.15766).

    The squared error is summed over the dimensions and not averaged: between unit vectors it is then 2 (1 - cosine)
    whatever the width, so that weights mean the same for every tower.

    Args:
        student: float[b, dim].
        teacher: float[b, dim].
        mse_weight: 0 leaves the squared error out.
        cosine_weight: 0 leaves the cosine out.
    """
    student, teacher = student.float(), teacher.float()
    squared = (student - teacher).square().sum(dim=1).mean()
    cosine = functional.cosine_similarity(student, teacher, dim=1).mean()
    return mse_weight * squared + cosine_weight * (1 - cosine)


def embed(model: SentenceTransformer, features: Mapping[str, Tensor], task: str | None = None) -> Tensor:
    """Vectors of a batch that is sorted by length, float[b, dim], computed in pieces without the padding they do not need.

    A batch is padded on the right to its longest text, so that what no text of a piece reaches can be cut off. Among
    short queries that is most of the batch.
    """
    rows = len(features["input_ids"])
    pieces = [_piece(features, slice(start, start + _PIECE_ROWS)) for start in range(0, rows, _PIECE_ROWS)]
    named = {"task": task} if task is not None else {}
    return torch.cat([model(piece, **named)["sentence_embedding"] for piece in pieces])


def _piece(features: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    width = int(features["attention_mask"][rows].sum(dim=1).max())
    return {name: tensor[rows, :width] for name, tensor in features.items()}


class ContrastiveLoss(nn.Module):  # type: ignore[misc]  # torch is not typed
    """``info_nce`` of a model with a query and a document route; labels are the relation."""

    def __init__(self, model: SentenceTransformer, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, features: Sequence[Mapping[str, Tensor]], labels: Tensor) -> Tensor:
        """``features`` are the tokens of the queries and of the documents."""
        queries, documents = features
        query_vectors = embed(self.model, queries, "query")
        document_vectors = embed(self.model, documents, "document")
        return info_nce(query_vectors, document_vectors, labels, self.temperature)


class DistillationLoss(nn.Module):  # type: ignore[misc]  # torch is not typed
    """``distillation`` of a student, over the whole vectors and their first ``widths`` numbers (those that the towers were
    trained at); labels are the teacher's vectors of the same texts.
    """

    def __init__(self, model: SentenceTransformer, mse_weight: float, cosine_weight: float, widths: Sequence[int] = ()) -> None:
        super().__init__()
        self.model = model
        self.mse_weight = mse_weight
        self.cosine_weight = cosine_weight
        self.widths = widths

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return distillation(student, teacher, self.mse_weight, self.cosine_weight)

    def forward(self, features: Sequence[Mapping[str, Tensor]], labels: Tensor) -> Tensor:
        """``features`` are the tokens of the texts, as the only item."""
        (texts,) = features
        return over_widths(self._distance, self.widths, embed(self.model, texts), labels)
