"""Stage 1: a query tower and a document tower from one backbone, trained to find each other (InfoNCE)."""

from __future__ import annotations

import shutil

import numpy as np

from offline.distributed import Crew, rank
from offline.fingerprints import backbone_fingerprint
from offline.stage_one import BEST, Learnt, learn, make_towers
from offline.stages import Job, Stage, Summary
from offline.students import check_student
from offline.towers import count_parameters, save_tower
from offline.trainer import read_result, write_result


def run(job: Job) -> Summary:
    """Write ``query_tower/`` and ``document_tower/`` in sentence-transformers' format, and ``training.json``.

    The latter holds the log and, as ``dev_curve``, nDCG@10 on dev by step; with mixtures of weights, ``dev_mixtures``. The
    weights kept are the best of these on dev, the untouched backbone's among them.

    Raises:
        BackboneError: the backbone cannot be found.
        RecipeError: a text spec is longer than the backbone reads, or the student asks for layers that it lacks.
        TrainingError: there is nothing to learn from, all hard negatives are false, the loss is not finite, there is not
            enough memory, or another process died.
    """
    if (done := read_result(job.folder)) is not None:
        return done
    check_student(job.recipe)
    Crew.call()
    config, text = job.recipe.train, job.recipe.text
    learnt = learn(job) if config.epochs > 0 else Learnt()
    towers = learnt.towers or make_towers(job.recipe)
    summary: Summary = {
        "backbone": config.backbone,
        "parameters_per_tower": count_parameters(towers[1]),
        "pairs": learnt.pairs,
        "final_loss": float(np.mean([entry["loss"] for entry in learnt.log[-5:]])) if learnt.log else None,
        **learnt.chosen,
    }
    if rank() == 0:
        save_tower(towers[0], job.folder / "query_tower", text.query)
        save_tower(towers[1], job.folder / "document_tower", text.document)
        write_result(job.folder, summary, learnt.log, learnt.measured)
        shutil.rmtree(job.folder / BEST, ignore_errors=True)
    return summary


STAGE = Stage(
    name="train",
    run=run,
    needs=("prepare",),
    sections=("text", "train"),
    outside=lambda recipe, _source: {"backbone": backbone_fingerprint(recipe.train.backbone)},
    version=4,
)
