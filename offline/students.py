"""What a student begins as: layers of the teacher, a narrower one, a vector a token, or another backbone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from transformers import AutoConfig, AutoModel

from offline.backbones import resolve_backbone
from offline.config import DistillConfig
from offline.errors import DimensionError
from offline.lengths import check_positions
from offline.narrow import make_narrow, narrow_sizes
from offline.recipe import Recipe
from offline.static import make_static
from offline.towers import build_tower, check_layers, project, take_layers, to_device, tokenize, tower_dim
from offline.vocabulary import keep_seen
from snapshot.manifest import TextSpec

_ALIGN_TEXTS = 8192
_RIDGE = 1e-3
_BATCH = 64


def check_student(recipe: Recipe) -> None:
    """Refuse a student that cannot be made, before hours go into its teacher.

    Raises:
        RecipeError: ``distill.layers`` or what ``train`` keeps of the backbone names a layer that is not there, a narrow student
            cannot be as narrow, or the student's own backbone reads fewer tokens than a query may have.
        BackboneError: a backbone cannot be found, or the teacher's kind cannot be made narrower.
    """
    distill, spec = recipe.distill, recipe.text.query
    if distill.backbone is not None:
        other = _outline(distill.backbone)
        if other is not None:
            check_positions(other.config, spec, "text.query")
        return
    teacher = _outline(recipe.train.backbone)
    depth = getattr(teacher.config, "num_hidden_layers", None) if teacher is not None else None
    if depth is None:
        return
    for name in ("document_layers", "query_layers"):
        if (kept := getattr(recipe.train, name)) is not None:
            check_layers(kept, depth, f"train.{name}")
    if recipe.train.query_layers is not None:
        depth = len(recipe.train.query_layers)
    if distill.student in ("layers", "narrow"):
        check_layers(distill.layers or (), depth)
    if distill.student == "narrow":
        narrow_sizes(teacher, distill.width, distill.ffn)


def _outline(backbone: str) -> torch.nn.Module | None:
    """The backbone's model without weights; None where its files are damaged: loading it, which comes next, names the fault."""
    folder = resolve_backbone(backbone)
    try:
        config = AutoConfig.from_pretrained(str(folder))
        with torch.device("meta"):
            model: torch.nn.Module = AutoModel.from_config(config)
    except (OSError, ValueError, KeyError):
        return None
    return model


def make_student(
    teacher: SentenceTransformer,
    config: DistillConfig,
    spec: TextSpec,
    dim: int,
    texts: Sequence[str] = (),
    corpus: Sequence[str] = (),
) -> SentenceTransformer:
    """An untrained student whose vectors have ``dim`` numbers, the document tower's width.

    Args:
        teacher: the query tower that ``config.layers`` are taken from.
        config: which student.
        spec: how queries are rendered and tokenized.
        dim: the documents' width.
        texts: rendered queries to learn on; a static student counts their tokens.
        corpus: rendered, other texts whose tokens stay where ``config.vocabulary`` is ``seen``.

    Raises:
        RecipeError: the teacher lacks a layer, or cannot be as narrow as the recipe asks for.
        BackboneError: the student's own backbone cannot be found, or the teacher's kind cannot be cut so.
        DimensionError: layers of a teacher whose vectors have another width than the documents'.
    """
    if config.backbone is None and tower_dim(teacher) != dim:
        raise DimensionError(
            f"the query tower's vectors have {tower_dim(teacher)} dimensions and the document tower's {dim}; give "
            "distill.backbone, which is projected to the document tower's width, or train both towers from one backbone"
        )
    base = teacher if config.backbone is None else build_tower(config.backbone)
    if config.vocabulary == "seen":
        base = keep_seen(base, spec, [*texts, *corpus])
    match config.student:
        case "backbone":
            return project(base, dim)
        case "static":
            return make_static(base, spec, config.mixers, texts)
        case "narrow":
            student = make_narrow(take_layers(base, config.layers or ()), config.width, config.ffn)
            return project(student, dim) if tower_dim(student) != dim else student
        case "layers":
            return take_layers(base, config.layers or ())


def needs_projection(config: DistillConfig) -> bool:
    """Whether the student's hidden states have a width of their own, so that ``align`` begins its projection.

    Where they do not, a projection helps at first and costs in the end: see docs/log.md.
    """
    return config.student == "backbone" or config.width is not None


def align(
    student: SentenceTransformer, spec: TextSpec, texts: Sequence[str], vectors: NDArray[np.float32]
) -> SentenceTransformer:
    """The student with the linear map before its normalisation that takes it closest to the teacher's vectors.

    Ridge regression, so that training begins where the student already points the teacher's way. A projection that is there
    already is replaced.

    Args:
        student: any tower.
        spec: how texts are tokenized.
        texts: rendered; the first 8192 are read.
        vectors: float32[len(texts), dim], the teacher's.
    """
    body = [module for module in student if not isinstance(module, Normalize)]
    if isinstance(body[-1], Dense) and isinstance(body[-1].activation_function, torch.nn.Identity):
        body = body[:-1]
    hidden = _pooled(body, student, spec, texts[:_ALIGN_TEXTS])
    weight, bias = ridge(hidden, vectors[:_ALIGN_TEXTS])
    dense = Dense(
        hidden.shape[1],
        vectors.shape[1],
        activation_function=torch.nn.Identity(),
        init_weight=torch.from_numpy(weight),
        init_bias=torch.from_numpy(bias),
    )
    return SentenceTransformer(modules=[*body, dense, Normalize()])


def ridge(inputs: NDArray[np.float32], targets: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight float32[d, k] and bias float32[d] of the map from inputs float[n, k] to targets float[n, d]."""
    x, y = inputs.astype(np.float64), targets.astype(np.float64)
    centre, middle = x.mean(axis=0), y.mean(axis=0)
    square = (x - centre).T @ (x - centre)
    square += np.eye(len(square)) * _RIDGE * max(np.trace(square) / len(square), 1e-12)
    weight = np.linalg.solve(square, (x - centre).T @ (y - middle)).T
    return weight.astype(np.float32), (middle - weight @ centre).astype(np.float32)


def _pooled(
    body: Sequence[torch.nn.Module], student: SentenceTransformer, spec: TextSpec, texts: Sequence[str]
) -> NDArray[np.float32]:
    """What the student gives before its projection and normalisation, float32[n, k]."""
    stack, parts = SentenceTransformer(modules=list(body)).eval(), []
    with torch.inference_mode():
        for start in range(0, len(texts), _BATCH):
            features = to_device(tokenize(student, spec, texts[start : start + _BATCH]), stack.device)
            parts.append(stack(features)["sentence_embedding"].float().cpu().numpy())
    return np.concatenate(parts)


def without_dropout(student: SentenceTransformer) -> None:
    """The target is exact and the texts are many: noise in the student only blurs what it can learn."""
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
