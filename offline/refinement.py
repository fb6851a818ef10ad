"""What a student is refined to lower: distances between rankings of frozen document vectors, its own and the teacher's.

The documents of a batch are the shortlists of all its texts and some drawn at random, so that each text is compared with its
own hard ones and with those of others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional

from offline.config import RefineConfig
from offline.losses import distillation, embed, prefix
from offline.ranking import Floats, Rows
from offline.shortlists import Shortlists
from offline.towers import tokenize
from offline.vectors import Vectors
from snapshot.manifest import TextSpec


def listwise_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher / t) || softmax(student / t)), averaged over the texts (as RankDistil and MarginMSE's listwise kin;
    for dense retrieval TAS-B, arXiv 2104.06967, and RocketQAv2, arXiv 2110.07367).

    Args:
        student: float[b, m], inner products with the documents.
        teacher: float[b, m].
        temperature: t.
    """
    return functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def contrast(scores: Tensor, positives: Tensor, negatives: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """InfoNCE of a query against documents that do not learn (HARNESS-LM, arXiv 2605.23572), each positive on its own.

    -log exp(s+ / t) / (exp(s+ / t) + sum of exp(s- / t)), averaged over a text's positives, weighted, averaged over the texts.

    Args:
        scores: float[b, m].
        positives: bool[b, m]; a text may have none, and then adds nothing.
        negatives: bool[b, m].
        weights: float[b].
        temperature: t.
    """
    logits = scores / temperature
    against = logits.masked_fill(~negatives, torch.finfo(logits.dtype).min).logsumexp(dim=1, keepdim=True)
    losses = (functional.softplus(against - logits) * positives).sum(dim=1) / positives.sum(dim=1).clamp(min=1)
    return (weights * losses).mean()


@dataclass(frozen=True)
class Scene:
    """What a batch of b texts is held against: m documents.

    Attributes:
        teacher: float[b, dim].
        documents: float[m, dim].
        positives: bool[b, m], of texts that have labels or pseudo-labels.
        negatives: bool[b, m]: the others, without those that the teacher scores nearly as high as a positive.
        weights: float[b], of the contrast.
    """

    teacher: Tensor
    documents: Tensor
    positives: Tensor
    negatives: Tensor
    weights: Tensor

    def cut(self, width: int) -> Scene:
        """The same for the first ``width`` numbers of the vectors."""
        return replace(self, teacher=prefix(self.teacher, width), documents=prefix(self.documents, width))


@dataclass(frozen=True)
class Targets:
    """What n texts are to find among the documents.

    Attributes:
        labels: rows of the documents that answer a text, by its number; pseudo-labels among them.
        weights: float32[n]: what the contrast of a text weighs.
    """

    documents: Vectors
    shortlists: Shortlists
    labels: Mapping[int, Rows]
    weights: Floats
    config: RefineConfig

    def scene(self, numbers: Rows) -> Scene:
        """For the texts of those numbers int64[b]; the same each time it is asked."""
        labels = [self.labels.get(int(number), np.empty(0, np.int64)) for number in numbers]
        random = np.random.default_rng([self.config.seed, *numbers[:1].tolist()])
        drawn = random.integers(len(self.documents), size=self.config.random_candidates)
        rows = np.unique(np.concatenate([self.shortlists.rows[numbers].ravel(), *labels, drawn]))
        rows = rows[rows >= 0]
        teacher, documents = self.shortlists.vectors[numbers], self.documents.take(rows)
        positives = np.stack([np.isin(rows, own) for own in labels])
        negatives = _negatives(teacher @ documents.T, positives, self.config.guard)
        arrays = (teacher, documents, positives, negatives, self.weights[numbers])
        return Scene(*(torch.from_numpy(array) for array in arrays))


def _negatives(scores: Floats, positives: NDArray[np.bool_], guard: float) -> NDArray[np.bool_]:
    """Not the positives, nor what the teacher scores above ``guard`` of its best positive: likely to be relevant, and not
    labelled (NV-Retriever, arXiv 2407.15831).
    """
    best = np.where(positives, scores, -np.inf).max(axis=1, keepdims=True)
    bound = np.where(np.isfinite(best), best - (1 - guard) * np.abs(best), np.inf)
    return ~positives & (scores <= bound)


class RefinementLoss(nn.Module):  # type: ignore[misc]  # torch is not typed
    """The weighted sum of the terms of ``RefineConfig``; the label of a text is its number among the targets."""

    def __init__(self, model: SentenceTransformer, targets: Targets, widths: Sequence[int] = ()) -> None:
        """``widths``: those of ``train.matryoshka``, at which the first numbers of the vectors learn too."""
        super().__init__()
        self.model = model
        self.targets = targets
        self.widths = widths

    def forward(self, features: Sequence[Mapping[str, Tensor]], labels: Tensor) -> Tensor:
        """``features`` are the tokens of the texts and, where invariance is asked for, of a variant of each."""
        config = self.targets.config
        scene = self.targets.scene(labels.cpu().numpy())
        scene = Scene(*(tensor.to(labels.device) for tensor in vars(scene).values()))
        vectors = embed(self.model, features[0])
        varied = embed(self.model, features[1]) if config.invariance_weight else vectors
        with torch.autocast(labels.device.type, enabled=False):  # scores over a small temperature need their digits
            vectors, varied = vectors.float(), varied.float()
            short = [self._loss(prefix(vectors, width), prefix(varied, width), scene.cut(width)) for width in self.widths]
            return torch.stack([self._loss(vectors, varied, scene), *short]).mean()

    def _loss(self, vectors: Tensor, varied: Tensor, scene: Scene) -> Tensor:
        config = self.targets.config
        scores, taught = vectors @ scene.documents.T, scene.teacher @ scene.documents.T
        loss = vectors.new_zeros(())
        if config.kl_weight:
            loss = loss + config.kl_weight * listwise_kl(scores, taught, config.temperature)
        if config.contrastive_weight or config.pseudo_weight:
            loss = loss + contrast(scores, scene.positives, scene.negatives, scene.weights, config.temperature)
        if config.alignment_weight:
            loss = loss + config.alignment_weight * distillation(vectors, scene.teacher, 1.0, 1.0)
        if config.invariance_weight:
            loss = loss + config.invariance_weight * distillation(varied, scene.teacher, 1.0, 1.0)
        return loss


@dataclass(frozen=True)
class NumberCollator:
    """Texts to their tokens, and to those of their variants if there are any, with their numbers as labels."""

    tower: SentenceTransformer
    spec: TextSpec
    texts: Sequence[str]
    variants: Sequence[str] | None
    valid_label_columns: tuple[str, ...] = ()
    """Read by the trainer; labels are made here."""

    def __call__(self, examples: Sequence[Mapping[str, int]]) -> dict[str, Tensor]:
        chosen = [example["index"] for example in examples]
        kinds = {"text": self.texts} | ({"variant": self.variants} if self.variants is not None else {})
        inputs = {
            f"{kind}_{key}": tensor
            for kind, texts in kinds.items()
            for key, tensor in tokenize(self.tower, self.spec, [texts[i] for i in chosen]).items()
        }
        return {**inputs, "label": torch.tensor(chosen)}
