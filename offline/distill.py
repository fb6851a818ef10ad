"""Stage 2: a small query tower learns the teacher's query vectors, on queries alone.

The document tower and its vectors are not touched, so that a new student never needs a new index.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from offline.batches import LengthBatches, TextCollator
from offline.data.prepared import Prepared
from offline.fingerprints import backbone_fingerprint
from offline.lengths import check_length
from offline.lessons import Lesson, choose_texts, corpus_texts, teach
from offline.losses import DistillationLoss
from offline.progress import say
from offline.recipe import Recipe
from offline.stages import Job, Source, Stage, Summary
from offline.students import align, make_student, needs_projection, without_dropout
from offline.towers import count_parameters, encode, load_tower, save_tower, tower_dim
from offline.trainer import Schedule, Task, fit, read_result, write_result

STUDENT, _TEACHER = "student", "teacher"
_RATES = {"layers": 5e-4, "narrow": 1e-3, "static": 3e-3, "backbone": 5e-4}
"""What suits each kind: fewer weights that are read more often take larger steps."""
_MAX_DEV, _DEV_SHARE = 500, 100


def run(job: Job) -> Summary:
    """Write ``student/`` in sentence-transformers' format, and ``training.json``, the log.

    Raises:
        RecipeError: the teacher lacks a layer that the recipe asks for, or cannot be as narrow.
        BackboneError: the student's own backbone cannot be found.
        DimensionError: the query tower and the document tower have different widths.
        TrainingError: there are no texts, or the loss is not finite.
    """
    if (done := read_result(job.folder)) is not None:
        return done
    teacher = load_tower(job.inputs["train"] / "query_tower")
    texts, given = choose_texts(Prepared(job.inputs["prepare"]), job.recipe.text.query, job.recipe.distill)
    student = begin(job, teacher, texts)
    lesson = Lesson(texts, given, teach(teacher, job.recipe.text.query, texts, job.folder / _TEACHER))
    summary = {**learn(job, student, lesson), "parameters_teacher": count_parameters(teacher)}
    shutil.rmtree(job.folder / _TEACHER, ignore_errors=True)
    return summary


def begin(job: Job, teacher: SentenceTransformer, texts: Sequence[str]) -> SentenceTransformer:
    """The untrained student, of the document tower's width; raises what ``run`` does."""
    config, spec, prepared = job.recipe.distill, job.recipe.text.query, Prepared(job.inputs["prepare"])
    dim = tower_dim(load_tower(job.inputs["train"] / "document_tower"))
    torch.manual_seed(config.seed)
    student = make_student(teacher, config, spec, dim, texts, corpus_texts(prepared, spec, config))
    check_length(student, spec, "text.query")
    return student


def learn(job: Job, student: SentenceTransformer, lesson: Lesson) -> dict[str, str | int | float | None]:
    """Train the student, going on where a killed run was, and save it; what the stage says about it."""
    config, spec = job.recipe.distill, job.recipe.text.query
    learnt, held_out = _split(len(lesson.texts), config.seed)
    texts, vectors = [lesson.texts[i] for i in learnt], lesson.vectors[learnt]
    if needs_projection(config):
        student = align(student, spec, texts, vectors)
    log = _train(job, student, texts, vectors) if config.epochs > 0 else []
    answers = encode(student, spec, [lesson.texts[i] for i in held_out])
    save_tower(student, job.folder / STUDENT, spec)
    summary: dict[str, str | int | float | None] = {
        "student": config.student,
        "texts": len(lesson.texts),
        **{f"texts_{source}": count for source, count in lesson.given.items()},
        "dev_texts": len(held_out),
        "dev_cosine": float(np.mean(np.sum(answers * lesson.vectors[held_out], axis=1))),
        "parameters": count_parameters(student),
    }
    write_result(job.folder, summary, log)
    return summary


def _split(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the texts to learn on and of those held out: one in a hundred, at least 1, at most 500."""
    held_out = min(_MAX_DEV, max(1, count // _DEV_SHARE))
    order = np.random.default_rng([seed, 1]).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _train(job: Job, student: SentenceTransformer, texts: list[str], vectors: NDArray[np.float32]) -> list[dict[str, float]]:
    config, spec = job.recipe.distill, job.recipe.text.query
    without_dropout(student)
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    task = Task(
        what="distill",
        model=student,
        loss=DistillationLoss(student, config.mse_weight, config.cosine_weight, job.recipe.train.matryoshka),
        examples=len(texts),
        batches=LengthBatches(lengths, config.batch_size, config.seed),
        collate=TextCollator(student, spec, texts, vectors),
    )
    say(f"  {len(texts)} texts, {len(task.batches)} steps an epoch, {config.epochs:g} epochs")
    rate = config.learning_rate or _RATES[config.student]
    return fit(task, Schedule(config.epochs, rate, config.warmup_share, config.seed, config.save_steps), job.folder)


def _outside(recipe: Recipe, _source: Source) -> Mapping[str, Any]:
    name = recipe.distill.backbone
    widths = {"matryoshka": list(recipe.train.matryoshka)} if recipe.train.matryoshka else {}
    return widths if name is None else {"backbone": backbone_fingerprint(name), **widths}


STAGE = Stage(name="distill", run=run, needs=("prepare", "train"), sections=("text", "distill"), outside=_outside)
