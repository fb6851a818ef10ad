"""Stage 2: a small query tower learns the teacher's query vectors, on queries alone.

The document tower and its vectors are not touched, so that a new student never needs a new index.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import nn

from offline.batches import LengthBatches, TextCollator
from offline.config import DistillConfig
from offline.data.prepared import Prepared
from offline.errors import DimensionError, TrainingError
from offline.fingerprints import backbone_fingerprint
from offline.losses import DistillationLoss
from offline.progress import say
from offline.recipe import Recipe
from offline.stages import Job, Source, Stage, Summary
from offline.towers import (
    build_tower,
    check_length,
    count_parameters,
    encode,
    load_tower,
    project,
    save_tower,
    take_layers,
    tower_dim,
)
from offline.trainer import Schedule, Task, fit, read_result, write_result
from snapshot.files import atomic_write
from snapshot.manifest import TextSpec
from snapshot.text import render_query

_TEACHER = "teacher"
_SHARD_ROWS = 8192
_SOURCES = ("train", "log")
"""Real queries: kept before titles and sentences where the recipe limits the number of texts."""
_MAX_DEV, _DEV_SHARE = 500, 100


def run(job: Job) -> Summary:
    """Write ``student/`` in sentence-transformers' format, and ``training.json``, the log.

    Raises:
        RecipeError: the teacher lacks a layer that the recipe asks for.
        BackboneError: the student's own backbone cannot be found.
        DimensionError: the query tower and the document tower have different widths.
        TrainingError: there are no texts, or the loss is not finite.
    """
    if (done := read_result(job.folder)) is not None:
        return done
    config, spec = job.recipe.distill, job.recipe.text.query
    teacher = load_tower(job.inputs["train"] / "query_tower")
    student = make_student(teacher, config, tower_dim(load_tower(job.inputs["train"] / "document_tower")))
    check_length(student, spec, "text.query")
    texts = choose_texts(Prepared(job.inputs["prepare"]), spec, config)
    vectors = _teach(teacher, spec, texts, job.folder / _TEACHER)
    learnt, held_out = _split(len(texts), config.seed)
    log = _train(job, student, [texts[i] for i in learnt], vectors[learnt]) if config.epochs > 0 else []
    answers = encode(student, spec, [texts[i] for i in held_out])
    save_tower(student, job.folder / "student", spec)
    summary: Summary = {
        "texts": len(texts),
        "dev_texts": len(held_out),
        "dev_cosine": float(np.mean(np.sum(answers * vectors[held_out], axis=1))),
        "parameters": count_parameters(student),
        "parameters_teacher": count_parameters(teacher),
    }
    write_result(job.folder, summary, log)
    shutil.rmtree(job.folder / _TEACHER, ignore_errors=True)
    return summary


def make_student(teacher: SentenceTransformer, config: DistillConfig, dim: int) -> SentenceTransformer:
    """Chosen layers of the teacher, or another backbone with a linear map to ``dim``, the document tower's width."""
    if config.backbone is not None:
        return project(build_tower(config.backbone), dim)
    if tower_dim(teacher) != dim:
        raise DimensionError(
            f"the query tower's vectors have {tower_dim(teacher)} dimensions and the document tower's {dim}; give "
            "distill.backbone, which is projected to the document tower's width, or train both towers from one backbone"
        )
    return take_layers(teacher, config.layers or ())


def choose_texts(prepared: Prepared, spec: TextSpec, config: DistillConfig) -> list[str]:
    """Texts to learn on, rendered and de-duplicated: real queries first, then a random sample of the rest.

    Raises:
        TrainingError: there are none.
    """
    table = prepared.texts
    texts = [render_query(spec, text) for text in table["text"].to_pylist()]
    mined = np.array([source not in _SOURCES for source in table["source"].to_pylist()], dtype=bool)
    shuffled = np.random.default_rng(config.seed).permutation(len(texts))
    order = shuffled[np.argsort(mined[shuffled], kind="stable")]
    chosen = list(dict.fromkeys(texts[i] for i in order if texts[i]))[: config.max_texts]
    if len(chosen) < 2:
        raise TrainingError(
            f"{prepared.folder}: {len(chosen)} texts to distil on; at least 2 are needed. Give queries with "
            "--query-log, or raise data.unlabelled_per_document"
        )
    return chosen


def _teach(teacher: SentenceTransformer, spec: TextSpec, texts: list[str], folder: Path) -> NDArray[np.float32]:
    """The teacher's vectors of all texts, float32[n, dim], in shards that a resumed run does not compute again."""
    shards = []
    for number, start in enumerate(range(0, len(texts), _SHARD_ROWS)):
        path = folder / f"{number:05d}.npy"
        if not path.is_file():
            vectors = encode(
                teacher, spec, texts[start : start + _SHARD_ROWS], progress=f"teacher, from text {start} of {len(texts)}"
            )
            with atomic_write(path) as handle:
                np.save(handle, vectors)
        shards.append(np.load(path))
    return np.concatenate(shards)


def _split(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the texts to learn on and of those held out: one in a hundred, at least 1, at most 500."""
    held_out = min(_MAX_DEV, max(1, count // _DEV_SHARE))
    order = np.random.default_rng([seed, 1]).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _train(job: Job, student: SentenceTransformer, texts: list[str], vectors: NDArray[np.float32]) -> list[dict[str, float]]:
    config, spec = job.recipe.distill, job.recipe.text.query
    _without_dropout(student)
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    task = Task(
        what="distill",
        model=student,
        loss=DistillationLoss(student, config.mse_weight, config.cosine_weight),
        examples=len(texts),
        batches=LengthBatches(lengths, config.batch_size, config.seed),
        collate=TextCollator(student, spec, texts, vectors),
    )
    say(f"  {len(texts)} texts, {len(task.batches)} steps an epoch, {config.epochs:g} epochs")
    return fit(
        task, Schedule(config.epochs, config.learning_rate, config.warmup_share, config.seed, config.save_steps), job.folder
    )


def _without_dropout(tower: SentenceTransformer) -> None:
    """The target is exact and the texts are many: noise in the student only blurs what it can learn."""
    for module in tower.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _outside(recipe: Recipe, _source: Source) -> Mapping[str, Any]:
    name = recipe.distill.backbone
    return {} if name is None else {"backbone": backbone_fingerprint(name)}


STAGE = Stage(name="distill", run=run, needs=("prepare", "train"), sections=("text", "distill"), outside=_outside)
