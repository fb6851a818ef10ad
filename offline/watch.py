"""What goes along with a training: the dev curve, the best weights, early stopping, a moving average of the weights.

Everything is on the disk before it counts, so that a resumed run measures nothing twice and ends with the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerControl, TrainerState, TrainingArguments

from offline.distributed import barrier, gather_objects, rank
from offline.progress import say
from offline.trainer import Companion
from snapshot.files import atomic_write, write_text

_CURVE = "curve.json"
_AVERAGE = "average"
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Point:
    """What was measured on held-out queries after ``step`` steps, ``epoch`` epochs; 0 is what the training began with."""

    step: int
    epoch: float
    value: float


class Average(Companion):
    """An exponential moving average of the weights (Polyak and Juditsky 1992); its decay grows to ``decay`` at first."""

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._checkpoint: Path | None = None
        self._weights: list[Tensor] = []
        self._means: list[Tensor] = []

    def resume(self, checkpoint: Path | None) -> None:
        self._checkpoint = checkpoint

    def on_train_begin(self, *_: object, model: torch.nn.Module, **__: object) -> None:
        """By now the weights are on their device, and shared out where they are (FSDP)."""
        self._weights = [_local(parameter) for parameter in model.parameters() if parameter.requires_grad]
        self._means = [weight.clone() for weight in self._weights]
        if self._checkpoint is not None:
            kept = torch.load(self._checkpoint / self._file(), weights_only=True, map_location="cpu")
            for mean, value in zip(self._means, kept, strict=True):
                mean.copy_(value)

    def on_step_end(self, _: TrainingArguments, state: TrainerState, *__: object, **___: object) -> None:
        decay = min(self._decay, (1 + state.global_step) / (10 + state.global_step))
        torch._foreach_lerp_(self._means, self._weights, 1 - decay)

    def save(self, checkpoint: Path, step: int) -> None:  # noqa: ARG002 - the state is that of the step
        torch.save(self._means, checkpoint / self._file())

    def _file(self) -> str:
        return f"{_AVERAGE}-{rank()}.pt"

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averaged weights in place of those that learn."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for weight, mean in zip(self._weights, self._means, strict=True):
            kept = weight.clone()
            weight.copy_(mean)
            mean.copy_(kept)


def _local(parameter: Tensor) -> Tensor:
    """What this process holds of a parameter, without gradient."""
    whole = parameter.detach()
    return whole.to_local() if isinstance(whole, DTensor) else whole


@dataclass(frozen=True)
class Rules:
    """When ``Watch`` measures and stops; see the recipe's section train.dev. ``steps`` is the number of steps of an epoch."""

    steps: int
    every_epochs: int = 1
    every_steps: int | None = None
    patience: int | None = None


class Watch(Companion):
    """Measures on dev, keeps the best weights, and stops the training when they were long ago.

    Attributes:
        folder: holds the curve, and the weights by step.
        measure: what a learner reaches as it is after so many steps; higher is better.
        weights: what to keep of a learner; all processes call it, the first one's answer is written.
        beside: what weights reach after so many steps, called by the first process from another thread while training goes
            on; takes the place of ``measure``. Nothing is saved before its answer is there, so that a killed run loses none.
        name: of what is measured, for messages.
    """

    def __init__(
        self,
        folder: Path,
        rules: Rules,
        measure: Callable[[torch.nn.Module, int], float],
        weights: Callable[[torch.nn.Module], Weights],
        average: Average | None = None,
        beside: Callable[[Weights, int], float] | None = None,
        name: str = "dev nDCG@10",
    ) -> None:
        self.folder = folder
        self.name = name
        self.beside = beside
        self.measure = measure
        self.weights = weights
        self._rules = rules
        self._average = average
        self._pool = ThreadPoolExecutor(1, "dev")
        self._pending: tuple[int, Future[float] | None] | None = None
        self.curve: list[Point] = []

    def resume(self, checkpoint: Path | None) -> None:
        step = int(checkpoint.name.rpartition("-")[2]) if checkpoint is not None else 0
        self.curve = [point for point in read_curve(self.folder) if point.step <= step]
        barrier()
        self._write()

    def on_train_begin(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, model: torch.nn.Module, **__: object
    ) -> None:
        self._measure_if_due(state, control, model)

    def on_step_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, model: torch.nn.Module, **__: object
    ) -> None:
        if self._rules.every_steps is not None:
            self._measure_if_due(state, control, model)

    def on_epoch_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, model: torch.nn.Module, **__: object
    ) -> None:
        self._measure_if_due(state, control, model)

    def on_train_end(self, *_: object, **__: object) -> None:
        self._settle()
        self._pool.shutdown()

    def save(self, checkpoint: Path, step: int) -> None:  # noqa: ARG002 - of the files beside it those go that no resumed run needs
        """What was best before ``step`` is needed, what was found after it will be found again."""
        self._settle()
        if rank() == 0 and self.curve:
            kept = {weights_path(self.folder, step) for step in (0, best_of(self.curve).step)}
            for path in self.folder.glob("weights-*.pt"):
                if path not in kept:
                    path.unlink()

    def _measure_if_due(self, state: TrainerState, control: TrainerControl, model: torch.nn.Module) -> None:
        step = state.global_step
        known = {point.step for point in self.curve} | ({self._pending[0]} if self._pending is not None else set())
        if self._is_due(step, state.max_steps) and step not in known:
            self._settle()
            with applied(self._average):
                self._take(step, model)
        control.should_training_stop |= self._is_over()

    def _is_due(self, step: int, last: int) -> bool:
        rules = self._rules
        every = rules.every_steps or rules.every_epochs * rules.steps
        return step % every == 0 or step >= last

    def _is_over(self) -> bool:
        patience = self._rules.patience
        since = [point for point in self.curve if point.step > best_of(self.curve).step]
        return patience is not None and len(since) >= patience

    def _take(self, step: int, model: torch.nn.Module) -> None:
        if self.beside is None:
            self._add(step, self.measure(model, step))
            if best_of(self.curve).step == step:
                keep_weights(self.weights(model), weights_path(self.folder, step))
            self._write()
            return
        weights = {name: weight.clone() for name, weight in self.weights(model).items()}
        keep_weights(weights, weights_path(self.folder, step))
        self._pending = step, self._pool.submit(self.beside, weights, step) if rank() == 0 else None

    def _settle(self) -> None:
        """Wait for what is measured beside the training, if anything is."""
        if self._pending is None:
            return
        step, measuring = self._pending
        self._pending = None
        self._add(step, gather_objects(measuring.result() if measuring is not None else -1.0)[0])
        self._write()

    def _add(self, step: int, value: float) -> None:
        point = Point(step, round(step / self._rules.steps, 4), value)
        say(f"  {self.name} {point.value:.4f} after {point.epoch:g} epochs")
        self.curve.append(point)

    def _write(self) -> None:
        if rank() == 0:
            write_text(self.folder / _CURVE, json.dumps([asdict(point) for point in self.curve]))
        barrier()


def read_curve(folder: Path) -> list[Point]:
    """What was measured, in the order of the steps."""
    path = folder / _CURVE
    return [Point(**point) for point in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


def best_of(curve: Sequence[Point]) -> Point:
    """The first of the best points."""
    return max(curve, key=lambda point: point.value)


def weights_path(folder: Path, step: int | str) -> Path:
    """Where the weights of a step are kept, if they are."""
    return folder / f"weights-{step}.pt"


def load_weights(folder: Path, step: int | str) -> Weights:
    """Those of a step, on the CPU."""
    return dict(torch.load(weights_path(folder, step), weights_only=True, map_location="cpu"))


def keep_weights(weights: Weights, path: Path) -> None:
    """Written by the first process."""
    if rank() == 0:
        with atomic_write(path) as handle:
            torch.save(dict(weights), handle)


def applied(average: Average | None) -> AbstractContextManager[None]:
    """The averaged weights, where there are any."""
    return average.applied() if average is not None else nullcontext()


def mix(untouched: Weights, trained: Weights, share: float) -> dict[str, Any]:
    """Weights between two, ``share`` of the way to the trained ones (WiSE-FT, Wortsman et al., arXiv 2109.01903)."""
    return {
        name: torch.lerp(untouched[name].float(), value.float(), share).to(value.dtype) if value.is_floating_point() else value
        for name, value in trained.items()
    }
