"""Keeping the best weights of a training by what is measured on held-out queries, its beginning included."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import TrainerState, TrainingArguments

from offline.progress import say
from offline.trainer import Companion
from snapshot.files import atomic_write, write_text

_CURVE = "dev.json"


@dataclass(frozen=True)
class Point:
    """What was measured after ``step`` steps; 0 is what the training began with."""

    step: int
    value: float


class Keeper(Companion):
    """Measures a model at its beginning and at even distances, and keeps its weights where they are better than all before.

    Nothing is measured twice after a kill but what came after the last checkpoint.

    Attributes:
        folder: of the curve and of the weights.
        model: what learns.
        name: of what is measured, for messages.
        measure: higher is better.
        times: how often, the beginning not counted.
    """

    def __init__(self, folder: Path, model: nn.Module, name: str, measure: Callable[[], float], times: int) -> None:
        self.folder = folder
        self.model = model
        self.name = name
        self.measure = measure
        self.times = times
        self.curve: list[Point] = []

    @property
    def best(self) -> Point:
        """The first of the best points."""
        return max(self.curve, key=lambda point: point.value)

    def weights(self) -> Mapping[str, Tensor]:
        """Those of the best point."""
        weights: Mapping[str, Tensor] = torch.load(self._path(self.best.step), map_location="cpu", weights_only=True)
        return weights

    def resume(self, checkpoint: Path | None) -> None:
        step = int(checkpoint.name.rpartition("-")[2]) if checkpoint is not None else 0
        path = self.folder / _CURVE
        points = [Point(**point) for point in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []
        self.curve = [point for point in points if point.step <= step]

    def save(self, checkpoint: Path, step: int) -> None:  # noqa: ARG002  # nothing of it goes into the checkpoint
        """What was better before is of no use to a run that goes on from here."""
        for path in self.folder.glob("weights-*.pt"):
            if path != self._path(self.best.step):
                path.unlink()

    def on_train_begin(self, _: TrainingArguments, state: TrainerState, *__: object, **___: object) -> None:
        if state.global_step == 0:  # a run that goes on from a checkpoint measures where one without a kill would
            self._measure(0)

    def on_step_end(self, _: TrainingArguments, state: TrainerState, *__: object, **___: object) -> None:
        if state.global_step in {round(state.max_steps * (part + 1) / self.times) for part in range(self.times)}:
            self._measure(state.global_step)

    def _measure(self, step: int) -> None:
        if self.curve and step <= self.curve[-1].step:
            return
        point = Point(step, self.measure())
        say(f"  {self.name} {point.value:.4f} after {step} steps")
        self.curve.append(point)
        if self.best == point:
            with atomic_write(self._path(step)) as handle:
                torch.save(self.model.state_dict(), handle)
        write_text(self.folder / _CURVE, json.dumps([asdict(entry) for entry in self.curve]))

    def _path(self, step: int) -> Path:
        return self.folder / f"weights-{step}.pt"
