"""The stages in their order, each imported when it is run: torch is not loaded to say that a receipt fits."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from offline.recipe import Recipe
from offline.stages import Outcome, Source, Stage, run_stage

STAGES = {
    "prepare": "Read the data; make training pairs and texts for distillation.",
    "train": "Train the query and the document tower from one backbone.",
    "distill": "Distil the query tower into a small one, on queries alone.",
    "encode": "Encode the documents with the document tower.",
    "export": "Export the small query tower as one ONNX graph, checked against torch.",
    "index": "Build the FAISS index and measure its effort table.",
    "evaluate": "Measure quality, and what each step lost.",
    "pack": "Seal tower, index and documents into a snapshot.",
    "publish": "Bring the snapshot into the registry.",
}


class Walk:
    """One recipe on one source, working in the folder ``work``."""

    def __init__(self, recipe: Recipe, source: Source, work: Path) -> None:
        self.recipe = recipe
        self.source = source
        self.work = work

    def run(self, name: str) -> Outcome:
        """Run one stage, or keep its output where the receipt fits; raises what ``run_stage`` does."""
        stage: Stage = importlib.import_module(f"offline.{name}").STAGE
        return run_stage(stage, self.work, self.recipe, self.source)

    def published(self) -> str:
        """Id of the snapshot that the stage publish brought in."""
        content = json.loads((self.work / "publish" / "published.json").read_text(encoding="utf-8"))
        return str(content["id"])
