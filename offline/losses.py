"""What towers are trained to lower: contrast between pairs in stage 1, distance to the teacher in stage 2."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from offline.distributed import gather

NEGATIVE, POSITIVE, MASKED = 0, 1, 2
"""How a query of the batch relates to a document of the batch. Masked: known to be relevant too, or the same text, so
that it may not count as a negative."""

_PIECE_ROWS = 64
_LOWEST_LOG_TEMPERATURE = math.log(0.005)


def info_nce(
    queries: Tensor,
    documents: Tensor,
    relation: Tensor,
    temperature: float | Tensor,
    *,
    symmetric: bool = False,
    margin: float = 0.0,
    guard: float | None = None,
) -> Tensor:
    """InfoNCE over in-batch negatives (van den Oord et al., arXiv 1807.03748; for retrieval DPR, arXiv 2004.04906).

    -log exp(s+ / t) / (exp(s+ / t) + sum of exp(s- / t)), averaged over the positives of each query, then over the queries,
    where s is the inner product.

    Args:
        queries: float[b, dim], L2-normalised.
        documents: float[d, dim], L2-normalised.
        relation: int[b, d] of NEGATIVE, POSITIVE, MASKED.
        temperature: t; smaller means that hard negatives weigh more.
        symmetric: the mean of this and the same from documents to queries (documents without a query here left out).
        margin: taken off each s+ (additive margin, Yang et al., arXiv 1902.08564).
        guard: a negative above this share of the query's best s+ is masked (arXiv 2407.15831).
    """
    with torch.autocast(queries.device.type, enabled=False):  # bf16 has two digits, which a small temperature makes large
        scores = queries.float() @ documents.float().T
    if guard is not None:
        relation = _guarded(scores.detach(), relation, guard)
    loss = _one_way(scores, relation, temperature, margin)
    return (loss + _one_way(scores.T, relation.T, temperature, margin)) / 2 if symmetric else loss


def _one_way(scores: Tensor, relation: Tensor, temperature: float | Tensor, margin: float) -> Tensor:
    positive = relation == POSITIVE
    logits = (scores - margin * positive) / temperature
    lowest = torch.finfo(logits.dtype).min  # not -inf, whose gradient is not a number where all of a line is masked
    negatives = logits.masked_fill(relation != NEGATIVE, lowest).logsumexp(dim=1, keepdim=True)
    losses = (functional.softplus(negatives - logits) * positive).sum(dim=1)
    count = positive.sum(dim=1)
    return (losses / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def _guarded(scores: Tensor, relation: Tensor, share: float) -> Tensor:
    best = scores.masked_fill(relation != POSITIVE, -torch.inf).amax(dim=1, keepdim=True)
    return relation.masked_fill((relation == NEGATIVE) & (scores > guard_bound(best, share)), MASKED)


def guard_bound(best: Tensor, share: float) -> Tensor:
    """Above this score a candidate counts as a false negative: ``1 - share`` of its size below the positive's score."""
    return best - (1 - share) * best.abs()


def relate(queries: Tensor, documents: Tensor, positives: Tensor, known: Tensor) -> Tensor:
    """How queries relate to documents, int64[b, d] of NEGATIVE, POSITIVE, MASKED.

    Args:
        queries: int64[b], number of each query; one that came before (from another process) is masked.
        documents: int64[d], number of each text; likewise.
        positives: int64[b, any], numbers of the texts that answer each query; -1 fills up.
        known: int64[b, any], numbers of the texts that may not be its negatives; -1 fills up.
    """
    relation = torch.full((len(queries), len(documents)), NEGATIVE, device=documents.device)
    relation[_among(known, documents)] = MASKED
    relation[_among(positives, documents)] = POSITIVE
    return relation.masked_fill(_again(queries)[:, None] | _again(documents), MASKED)


def _again(numbers: Tensor) -> Tensor:
    """bool[n]: whether the same number came before."""
    return (numbers[:, None] == numbers[None, :]).tril(-1).any(dim=1)


def _among(numbers: Tensor, documents: Tensor) -> Tensor:
    """bool[b, d]: whether document j is one of line i of ``numbers``; a column at a time, since lines may be long."""
    found = torch.zeros(len(numbers), len(documents), dtype=torch.bool, device=documents.device)
    for column in numbers.unbind(dim=1):
        found |= column[:, None] == documents
    return found


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


def embed(
    model: SentenceTransformer, features: Mapping[str, Tensor], task: str | None = None, mini_batch: int | None = None
) -> Tensor:
    """Vectors of a batch that is sorted by length, float[b, dim], computed in pieces without the padding they do not need.

    A batch is padded on the right to its longest text, so that what no text of a piece reaches can be cut off. Among
    short queries that is most of the batch.

    With ``mini_batch`` a piece's activations are dropped, and computed again from the same random state when its gradient
    is due, so that memory holds those of one piece (GradCache, Gao et al., arXiv 2101.06983, as checkpointing of pieces:
    the graph of autograd stays whole, which is what DDP and FSDP need).
    """
    rows = len(features["input_ids"])
    size = mini_batch or _PIECE_ROWS

    def vectors(piece: Mapping[str, Tensor]) -> Tensor:
        named = {"task": task} if task is not None else {}
        return model(dict(piece), **named)["sentence_embedding"]

    pieces = [_piece(features, slice(start, start + size)) for start in range(0, rows, size)]
    if mini_batch is None or not torch.is_grad_enabled():
        return torch.cat([vectors(piece) for piece in pieces])
    return torch.cat([checkpoint(vectors, piece, use_reentrant=False) for piece in pieces])


def _piece(features: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    width = max(1, int(features["attention_mask"][rows].sum(dim=1).max()))
    return {name: tensor[rows, :width] for name, tensor in features.items()}


@dataclass(frozen=True)
class Contrast:
    """The options of ``info_nce``, and how it is computed.

    Attributes:
        learn_temperature: begin with ``temperature`` and let training change it.
        matryoshka: as ``widths`` of ``over_widths``.
        mini_batch: as in ``embed``.
    """

    temperature: float = 0.05
    learn_temperature: bool = False
    symmetric: bool = False
    margin: float = 0.0
    guard: float | None = None
    matryoshka: tuple[int, ...] = ()
    mini_batch: int | None = None


class ContrastiveLoss(nn.Module):  # type: ignore[misc]  # torch is not typed
    """``info_nce`` of a model with a query and a document route, over the batches of all processes."""

    def __init__(self, model: SentenceTransformer, options: Contrast) -> None:
        super().__init__()
        self.model = model
        self.options = options
        start = torch.tensor(options.temperature).log()
        self.log_temperature = nn.Parameter(start, requires_grad=options.learn_temperature)

    def forward(self, features: Sequence[Mapping[str, Tensor]], labels: Mapping[str, Tensor]) -> Tensor:
        """``features`` are the tokens of the queries and of the documents; ``labels`` the arguments of ``relate``.

        Every process computes the whole loss of all batches. Gathering adds up what each of them sends back to a vector,
        and DDP and FSDP average over them, so that gradients are those of one process with the whole batch.
        """
        queries, documents = features
        left = gather(embed(self.model, queries, "query", self.options.mini_batch))
        right = gather(embed(self.model, documents, "document", self.options.mini_batch))
        asked, answers = (gather(labels[name][:, None])[:, 0] for name in ("queries", "documents"))
        relation = relate(asked, answers, gather(labels["positives"]), gather(labels["known"]))
        return over_widths(lambda a, b: self._contrast(a, b, relation), self.options.matryoshka, left, right)

    def _contrast(self, queries: Tensor, documents: Tensor, relation: Tensor) -> Tensor:
        options = self.options
        temperature = self.log_temperature.clamp(min=_LOWEST_LOG_TEMPERATURE).exp()
        return info_nce(
            queries,
            documents,
            relation,
            temperature,
            symmetric=options.symmetric,
            margin=options.margin,
            guard=options.guard,
        )


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
