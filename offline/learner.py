"""The model that a trainer sees: towers and loss in one module, so that one forward pass is one loss, also under DDP and FSDP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from offline.distributed import gather_objects, rank, world
from offline.losses import embed
from offline.progress import lines
from offline.towers import to_device, tokenize, training_autocast
from snapshot.manifest import TextSpec

_LABEL = "label"


class Learner(nn.Module):  # type: ignore[misc]  # torch is not typed
    """A loss of a model, called with the inputs that a collator makes: ``PREFIX_KEY`` for the tokens of each kind of text,
    and ``label``, or ``label_KEY`` for each of several.

    Attributes:
        loss: takes the tokens of each kind in the order of the inputs, and the label or the labels by key; holds the model.
        precision: see ``train.precision``.
    """

    accepts_loss_kwargs = False
    """Read by transformers' trainer: the loss is a mean over the batch."""

    def __init__(self, model: SentenceTransformer, loss: nn.Module, precision: str = "auto") -> None:
        super().__init__()
        self.precision = precision
        self.loss = loss
        self._model = (model,)  # a tuple hides it from torch, for which it would be there twice

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """``loss``; or, where there is no label, ``vectors`` float[n, dim] of the texts, whose prefix is the model's route."""
        with training_autocast(next(iter(inputs.values())).device, self.precision):
            return self._answer(inputs)

    def _answer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in inputs.items():
            prefix, _, key = name.partition("_")
            groups.setdefault(prefix, {})[key] = tensor
        labels = groups.pop(_LABEL, None)
        if labels is None:
            ((task, tokens),) = groups.items()
            return {"vectors": embed(self._model[0], tokens, task)}
        return {"loss": self.loss(list(groups.values()), labels.get("", labels))}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and gradients."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():  # not inference_mode, whose tensors FSDP cannot train with afterwards
            yield
    finally:
        model.train(was_training)


def encode_with(
    learner: nn.Module,
    task: str,
    tower: SentenceTransformer,
    spec: TextSpec,
    texts: Sequence[str],
    batch_size: int = 64,
    *,
    alone: bool = False,
) -> NDArray[np.float32]:
    """Vectors float32[n, dim] of rendered texts by a learner in training, however it is wrapped; each process computes a share.

    Every process must call it with the same texts, and makes the same number of forward passes, as FSDP needs it; but with
    ``alone`` this process computes all.
    """
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
    batches = [order[start : start + batch_size][::-1] for start in range(0, len(order), batch_size)]
    place, places = (0, 1) if alone else (rank(), world())
    even = batches + batches[:1] * (-len(batches) % places)
    device = next(learner.parameters()).device
    mine: list[tuple[list[int], NDArray[np.float32]]] = []
    with evaluating(learner):
        share = even[place::places]
        for rows in lines(share, f"{task} vectors, batches", len(share)):
            tokens = to_device(tokenize(tower, spec, [texts[i] for i in rows]), device)
            vectors = learner(**prefixed(task, tokens))["vectors"].float()
            mine.append((rows, nn.functional.normalize(vectors, dim=1).cpu().numpy()))
    found = np.empty((len(texts), mine[0][1].shape[1]), np.float32)
    for one in [mine] if alone else gather_objects(mine):
        for rows, vectors in one:
            found[rows] = vectors
    return found


def prefixed(name: str, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs of ``Learner`` from the tokens of one kind of text."""
    return {f"{name}_{key}": tensor for key, tensor in tokens.items()}
