"""Jobs of train, distill, encode and refine over the tiny prepared folder, run in this process or in one that is killed."""

import json
import os
import signal
from pathlib import Path

import numpy as np
from tiny_models import make_tiny_bert
from tiny_work import make_prepared

from offline import distill, refine, train, trainer
from offline import encode as encoding
from offline.recipe import Recipe
from offline.stages import Job, Source, Summary
from offline.towers import encode, load_tower
from snapshot.manifest import TextSpec

QUERY = TextSpec(max_tokens=32)
STAGES = {"train": train.run, "distill": distill.run, "encode": encoding.run, "refine": refine.run}
TEXTS = ["one two three", "four", "five six seven eight"]


def make_recipe(backbone: Path, **sections: dict[str, object]) -> Recipe:
    settings = {
        "train": {
            "backbone": str(backbone),
            "epochs": 2,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "save_steps": 3,
            "ema": 0.9,
            "negatives": {"per_document": 1},
        },
        "distill": {"layers": [0, 2], "epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "save_steps": 3},
        "refine": {"epochs": 4, "batch_size": 8, "learning_rate": 1e-3, "save_steps": 3, "candidates": 5, "random_candidates": 4},
        "text": {"query": QUERY.model_dump(), "document": {"template": "{title}. {text}", "max_tokens": 64}},
    }
    for name, changes in sections.items():
        settings[name] = settings[name] | changes
    return Recipe.model_validate({"name": "tiny", **settings})


def make_job(work: Path, stage: str, **sections: dict[str, object]) -> Job:
    """The job of ``stage`` in ``work``, whose folder ``prepare`` and backbone are made where they are missing."""
    if not (work / "prepare").exists():
        make_prepared(work / "prepare")
        make_tiny_bert(work / "bert")
    (work / stage).mkdir(exist_ok=True)
    recipe = make_recipe(work / "bert", **sections)
    return Job(recipe, Source(), work / stage, {name: work / name for name in ("prepare", "train", "distill", "encode")})


def run(work: Path, stage: str, **sections: dict[str, object]) -> Summary:
    return STAGES[stage](make_job(work, stage, **sections))


def vectors_of(tower: Path) -> np.ndarray:
    return encode(load_tower(tower), QUERY, TEXTS)


def curve_of(folder: Path) -> list[dict[str, float]]:
    """What was measured on dev during the training in ``folder``."""
    curve: list[dict[str, float]] = json.loads((folder / "training.json").read_text())["dev_curve"]
    return curve


def die_while_saving(work: Path, stage: str, saves: int) -> None:
    """Run the stage and kill this process (SIGKILL) when checkpoint number ``saves`` is written but not yet complete."""
    complete, seen = trainer._Checkpoints.on_save, []

    def on_save(*arguments, **named):
        seen.append(None)
        if len(seen) == saves:
            os.kill(os.getpid(), signal.SIGKILL)
        complete(*arguments, **named)

    trainer._Checkpoints.on_save = on_save
    run(work, stage)
