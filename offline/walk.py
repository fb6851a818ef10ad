"""The stages in their order, each imported when its turn comes, and one run at a time in a work folder."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offline.cost import cost_of
from offline.errors import StageError, StorageError
from offline.recipe import Recipe
from offline.stages import RECEIPT, Outcome, Source, Stage, make_job, run_stage, storage_errors

STAGES = {
    "prepare": "Read the data; make training pairs and texts for distillation.",
    "train": "Train the query and the document tower from one backbone.",
    "distill": "Distil the query tower into a small one, on queries alone.",
    "encode": "Encode the documents with the document tower.",
    "refine": "Refine the small query tower against the document vectors, which stay as they are.",
    "export": "Export the small query tower as one ONNX graph, checked against torch.",
    "index": "Build the index and measure its effort table.",
    "evaluate": "Measure quality, and what each step lost.",
    "pack": "Seal tower, index and documents into a snapshot.",
    "publish": "Bring the snapshot into the registry.",
}

SINCE = {
    "since/export": "Verify the parent, and take over its query tower.",
    "since/prepare": STAGES["prepare"],
    "since/encode": "Encode what is new or changed; carry the other vectors over.",
    "since/index": "Append to the parent's index, or build one; measure its effort table.",
    "since/pack": STAGES["pack"],
    "since/publish": STAGES["publish"],
}
"""The walk of ``run --since``."""

REUSE = {
    "reuse/prepare": "Verify the parent, and take over its documents.",
    "reuse/encode": "Read the parent's document vectors out of its index.",
    "reuse/refine": "Refine the small query tower against the parent's document vectors.",
    "reuse/export": STAGES["export"],
    "reuse/index": "Link the parent's index, and measure its effort table for the new student.",
    "reuse/evaluate": "Measure the new student's quality, and what each step lost.",
    "reuse/pack": "Seal the new student with the parent's index and documents.",
}
"""The walk of ``pack --reuse-index``."""

_TOGETHER = ("prepare", "train")
"""Stages at whose end several processes still need each other, or will."""


def stage_of(name: str) -> Stage:
    """The stage of that name, in ``offline.<name>``; ``since/encode`` is the stage ``encode`` of ``offline.since``."""
    walk, _, plain = name.rpartition("/")
    stage: Stage = (
        importlib.import_module(f"offline.{walk}").STAGES[plain] if walk else importlib.import_module(f"offline.{plain}").STAGE
    )
    return stage


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Two runs in one folder would wipe each other's work. The lock goes with the process, so a kill leaves none.

    Raises:
        StageError: another process is at work in the folder.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"{folder}: another run is at work here; wait for it, or choose another folder with --out"
            raise StageError(message) from error
        yield


def _check_writable(registry: Path) -> None:
    """Try it where the registry is or would be made. What is made for that is removed, and readers take no notice of it."""
    place = registry
    try:
        place = next(path for path in (registry, *registry.absolute().parents) if path.exists())
        if not place.is_dir():
            raise StorageError(f"--registry {registry}: {place} is not a folder; name a folder to publish into")
        with tempfile.TemporaryDirectory(prefix=".writable-", dir=place):
            pass
    except OSError as error:
        message = f"--registry {registry}: cannot be written ({error.strerror}); make {place} writable, or name another folder"
        raise StorageError(message) from error


class Walk:
    """One recipe on one source, working in the folder ``work``."""

    def __init__(self, recipe: Recipe, source: Source, work: Path) -> None:
        self.recipe = recipe
        self.source = source
        self.work = work

    def reach(self) -> None:
        """See that the registry can be written, and that the server is there which is to keep the vectors, if one is.

        Before the long work, and not after it.

        Raises:
            StorageError: the registry is no folder, or cannot be written.
            OfflineError: as of ``offline.milvus.connected``.
        """
        _check_writable(self.source.registry)
        if self.recipe.index.kind == "milvus":
            from offline.milvus import reach  # which needs not be installed

            reach(self.recipe.milvus)

    def run(self, name: str) -> Outcome:
        """Run one stage, or keep its output where the receipt fits.

        Raises:
            StageError: another process is at work in the folder; and what ``run_stage`` raises.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            return self._run_together(name)
        return self.run_stage(stage_of(name), self.recipe)

    def run_stage(self, stage: Stage, recipe: Recipe) -> Outcome:
        """As ``run``, for a stage that is in no list, or with another recipe."""
        with alone(self.work):
            return run_stage(stage, self.work, recipe, self.source)

    def _run_together(self, name: str) -> Outcome:
        """Under ``accelerate launch``: the first process runs the stage; the others help where it calls them.

        Raises:
            SystemExit: in the others, once there is nothing more to help with.
        """
        from offline.distributed import Crew, rank  # with torch, which takes seconds

        stage = stage_of(name)
        if name not in _TOGETHER:
            if not Crew.part():
                raise SystemExit(0)
            return self.run_stage(stage, self.recipe)
        Crew.join()
        if rank() == 0:
            with alone(self.work):
                outcome = run_stage(stage, self.work, self.recipe, self.source)
            Crew.dismiss()
            return outcome
        Crew.follow(lambda: stage.run(make_job(stage, self.work, self.recipe, self.source)))
        return Outcome(name, self.work / name, {}, 0.0, reused=True)

    def goals(self) -> list[str]:
        """Lines of the goals of the whole walk, once it is finished: time and memory, where the recipe bounds them."""
        from offline.goals import bounds_on, judge_cost  # with onnxruntime
        from offline.prepare import data_digest

        cost = cost_of(self.work / name / RECEIPT for name in STAGES)
        wanted, _ = bounds_on(data_digest(self.source), self.recipe)
        return [goal.describe() for goal in judge_cost(cost, wanted)]

    def published(self, stage: str = "publish") -> str:
        """Id of the snapshot that a stage that publishes brought in."""
        content = json.loads((self.work / stage / "published.json").read_text(encoding="utf-8"))
        return str(content["id"])
