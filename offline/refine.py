"""Stage 3: the distilled student learns to rank, against document vectors that stay as they are.

The teacher's rankings (listwise KL), training judgements and confident pseudo-labels (InfoNCE), and variants of the texts
(invariance) each are a term of the loss. What is handed on is the best of what held-out queries saw, the distilled student
among it, so that refinement never hands on less than it was given. Of fewer than a hundred the gain must be outside its interval.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from offline import towers
from offline.batches import LengthBatches
from offline.bootstrap import difference_interval
from offline.config import RefineConfig
from offline.data.prepared import Prepared
from offline.encoded import SHARDS
from offline.errors import DimensionError, TrainingError
from offline.exam import DEPTH, Exam, hold_out, judged_queries, rendered
from offline.judged import judged_split
from offline.lessons import REAL
from offline.progress import say
from offline.ranking import Floats, Rows
from offline.refinement import NumberCollator, RefinementLoss, Targets
from offline.shortlists import Shortlists, mine
from offline.stages import Job, Stage, Summary
from offline.students import without_dropout
from offline.trainer import Schedule, Task, fit, read_result, write_result
from offline.variants import vary
from offline.vectors import Search, Vectors, open_search
from offline.watch import Rules, Watch, best_of, load_weights, read_curve
from snapshot.files import link_or_copy
from snapshot.manifest import TextSpec
from snapshot.text import render_query

STUDENT = "student"
_TEACHER = "teacher"
_KEPT = "kept"
_RESAMPLES = 1000


def run(job: Job) -> Summary:
    """Write ``student/`` in sentence-transformers' format, and ``training.json``, the log.

    Raises:
        DimensionError: the student's vectors have another width than the documents'.
        TrainingError: there are no texts, or the loss is not finite.
    """
    if (done := read_result(job.folder)) is not None:
        return done
    idle = _why_not(job)
    summary, log = _refine(job) if idle is None else ({"steps": 0, "why": idle}, [])
    if not summary["steps"]:
        _hand_on(job)
    write_result(job.folder, summary, log)
    for scratch in (_TEACHER, _KEPT):
        shutil.rmtree(job.folder / scratch, ignore_errors=True)
    return summary


def was_refined(folder: Path) -> bool:
    """Whether the student in a finished folder of this stage is another than the distilled one."""
    summary = read_result(folder)
    return summary is not None and bool(summary["steps"])


def _why_not(job: Job) -> str | None:
    """Why there is nothing to be learnt; None where there is."""
    config = job.recipe.refine
    if not config.is_on:
        return "switched off in the recipe"
    only_labels = not (config.kl_weight or config.pseudo_weight or config.invariance_weight)
    if only_labels and not len(judged_split(Prepared(job.inputs["prepare"]), job.recipe, "train")):
        return "there are no training judgements, and refine.contrastive_weight alone is not 0"
    return None


def _hand_on(job: Job) -> None:
    """The distilled student's files, linked: they are replaced and never written to."""
    source, target = job.inputs["distill"] / STUDENT, job.folder / STUDENT
    shutil.rmtree(target, ignore_errors=True)
    for path in sorted(source.rglob("*")):
        if path.is_file():
            link_or_copy(path, target / path.relative_to(source))


def _refine(job: Job) -> tuple[Summary, list[dict[str, float]]]:
    config, spec = job.recipe.refine, job.recipe.text.query
    student = towers.load_tower(job.inputs["distill"] / STUDENT)
    documents = _documents(job, student)
    search = open_search(documents, config.exact_rows, config.seed)
    lesson = _lesson(job, search)
    targets = Targets(documents, lesson.shortlists, *label(lesson, job), config)
    log = _train(job, student, lesson, targets, lambda: lesson.exam.measure(student, spec, search))
    curve = read_curve(job.folder / _KEPT)
    best = best_of(curve)
    why: str | None = f"{lesson.exam.name} is best as distilled"
    if best.step:
        student.load_state_dict(load_weights(job.folder / _KEPT, best.step))
        why = _why_unsure(job, lesson.exam, student, search)
    if why is None:
        towers.save_tower(student, job.folder / STUDENT, spec)
    summary: Summary = {
        "steps": 0 if why else best.step,
        "why": why,
        "texts": len(lesson.texts),
        "labelled": int(np.count_nonzero(targets.weights)),
        f"{lesson.exam.name}, distilled": curve[0].value,
        f"{lesson.exam.name}, refined": best.value,
    }
    return summary, log


def _why_unsure(job: Job, exam: Exam, student: SentenceTransformer, search: Search) -> str | None:
    """Why the best weights are not handed on: of few queries the best of several means is the luckiest."""
    if exam.is_enough:
        return None
    spec = job.recipe.text.query
    given = exam.values(towers.load_tower(job.inputs["distill"] / STUDENT), spec, search)
    gain = difference_interval(exam.values(student, spec, search), given, _RESAMPLES, job.recipe.refine.seed)
    if gain.low > 0:
        return None
    return f"{len(given)} held-out queries are few, and the interval of the gain [{gain.low:+.3f}, {gain.high:+.3f}] holds zero"


def _documents(job: Job, student: SentenceTransformer) -> Vectors:
    documents = Vectors(job.inputs["encode"] / SHARDS)
    dim = towers.tower_dim(student)
    if dim != documents.dim:
        raise DimensionError(
            f"{job.inputs['distill'] / STUDENT}: its vectors have {dim} dimensions, the documents' have {documents.dim}; "
            "run the stage distill again"
        )
    return documents


@dataclass(frozen=True)
class Lesson:
    """What to learn on, and what to be examined on; no text is in both.

    Attributes:
        texts: by the rendered text, as a user would write it.
        shortlists: of the texts.
    """

    texts: Mapping[str, str]
    shortlists: Shortlists
    exam: Exam


def _lesson(job: Job, search: Search) -> Lesson:
    """Texts and held-out queries, both shown to the teacher."""
    config, spec = job.recipe.refine, job.recipe.text.query
    prepared = Prepared(job.inputs["prepare"])
    real, mined = choose_texts(prepared, spec, config)
    judged = judged_queries(prepared, job.recipe)
    by_judges = rendered(judged, spec) if judged is not None else []
    others = [[text for text in texts if text not in set(by_judges)] for texts in (real, mined)]
    asked = [*by_judges, *hold_out(others[0], others[1], len(by_judges))]
    texts = {text: raw for text, raw in {**real, **mined}.items() if text not in set(asked)}
    if len(texts) < 2 or not asked:
        raise TrainingError(
            f"{prepared.folder}: {len(texts)} texts to refine on; at least 2 are needed. Give queries with --query-log, raise "
            "data.unlabelled_per_document, or set refine.epochs = 0"
        )
    teacher = towers.load_tower(job.inputs["train"] / "query_tower")
    found = mine(teacher, spec, [*texts, *asked], search, max(config.candidates, DEPTH), job.folder / _TEACHER)
    exam = Exam(asked, judged, found.rows[len(texts) + len(by_judges) :, :DEPTH])
    return Lesson(texts, found.first(len(texts)), exam)


def choose_texts(prepared: Prepared, spec: TextSpec, config: RefineConfig) -> tuple[dict[str, str], dict[str, str]]:
    """Real queries, and texts from the documents: raw texts by what they render to, a random sample of each."""
    table = prepared.texts
    order = np.random.default_rng(config.seed).permutation(table.num_rows)
    chosen: tuple[dict[str, str], dict[str, str]] = ({}, {})
    limits = (config.max_queries, config.max_mined)
    texts, sources = table["text"].to_pylist(), table["source"].to_pylist()
    for place in order:
        kind = 0 if sources[place] in REAL else 1
        text = render_query(spec, texts[place])
        if text and text not in chosen[0] and len(chosen[kind]) < limits[kind]:
            chosen[kind].setdefault(text, texts[place])
    real, mined = chosen
    return real, {text: raw for text, raw in mined.items() if text not in real}


def label(lesson: Lesson, job: Job) -> tuple[dict[int, Rows], Floats]:
    """Rows of relevant documents by the number of a text, and float32[n] what the contrast of each text weighs.

    They come from the training judgements; for other texts from the teacher's best documents, where it is confident.
    """
    config, spec = job.recipe.refine, job.recipe.text.query
    judged = judged_split(Prepared(job.inputs["prepare"]), job.recipe, "train")
    relevant: dict[str, set[int]] = {}
    for text, scores in zip(rendered(judged, spec), judged.judgements, strict=True):  # logs have a text more than once
        relevant.setdefault(text, set()).update(row for row, score in scores.items() if score >= judged.relevance)
    is_confident = lesson.shortlists.confidence(config.pseudo_documents, config.temperature) >= config.pseudo_confidence
    labels: dict[int, Rows] = {}
    weights = np.zeros(len(lesson.texts), np.float32)
    for number, text in enumerate(lesson.texts):
        if text in relevant:
            labels[number], weights[number] = np.array(sorted(relevant[text]), np.int64), config.contrastive_weight
        elif config.pseudo_weight and is_confident[number]:
            rows = lesson.shortlists.rows[number, : config.pseudo_documents]
            labels[number], weights[number] = rows[rows >= 0], config.pseudo_weight
    return labels, weights


def _train(
    job: Job, student: SentenceTransformer, lesson: Lesson, targets: Targets, measure: Callable[[], float]
) -> list[dict[str, float]]:
    """The log; the curve and the best weights are kept in the folder ``_KEPT``."""
    config, spec = job.recipe.refine, job.recipe.text.query
    texts = list(lesson.texts)
    without_dropout(student)
    task = Task(
        what="refine",
        model=student,
        loss=RefinementLoss(student, targets, job.recipe.train.matryoshka),
        examples=len(texts),
        batches=LengthBatches(np.array([len(text) for text in texts], np.int64), config.batch_size, config.seed),
        collate=NumberCollator(student, spec, texts, _variants(student, lesson, spec, config)),
    )
    say(f"  {len(texts)} texts, {len(task.batches)} steps an epoch, {config.epochs:g} epochs")
    schedule = Schedule(config.epochs, config.learning_rate, config.warmup_share, config.seed, config.save_steps)
    steps = len(task.batches)
    rules = Rules(steps, every_steps=max(1, math.ceil(config.epochs * steps / config.measurements)))
    watch = Watch(job.folder / _KEPT, rules, lambda *_: measure(), lambda _: student.state_dict(), name=lesson.exam.name)
    return fit(task, schedule, job.folder, [watch])


def _variants(student: SentenceTransformer, lesson: Lesson, spec: TextSpec, config: RefineConfig) -> list[str] | None:
    """A variant of each text, rendered; None where invariance is off."""
    if not config.invariance_weight:
        return None
    kinds = [kind for kind in config.variants if kind != "case" or _sees_case(student, spec)]
    return [render_query(spec, text) for text in vary(list(lesson.texts.values()), config.seed, kinds)]


def _sees_case(student: SentenceTransformer, spec: TextSpec) -> bool:
    """Whether another case makes other tokens: with an uncased tokenizer there is nothing to learn."""
    lower, upper = (towers.tokenize(student, spec, [render_query(spec, text)])["input_ids"] for text in ("word", "WORD"))
    return bool(lower.tolist() != upper.tolist())


STAGE = Stage(
    name="refine", run=run, needs=("prepare", "train", "distill", "encode"), sections=("text", "data", "refine"), version=2
)
