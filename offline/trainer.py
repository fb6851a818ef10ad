"""Running sentence-transformers' trainer so that a kill at any moment costs at most ``save_steps`` steps.

A checkpoint counts only once a marker lies in it, which is written after everything else; a run goes on from the last
such checkpoint, with the same batches and the same dropout as if it had never stopped. Nothing is written outside the
stage's folder, and nothing is reported to anybody.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from offline.batches import Batches
from offline.errors import TrainingError
from offline.progress import track
from offline.towers import has_bf16
from snapshot.files import fsync_file, write_text

_CHECKPOINTS = "checkpoints"
_MARKER = "complete"
_WEIGHTS = "weights.pt"
RESULT = "training.json"
_LOGGING_STEPS = 10


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn; see the recipe's sections train and distill."""

    epochs: float
    learning_rate: float
    warmup_share: float
    seed: int
    save_steps: int


@dataclass(frozen=True)
class Task:
    """What to learn.

    Attributes:
        what: what to call it while progress is shown.
        collate: from examples, each with its number as ``index``, to the inputs of the loss.
    """

    what: str
    model: SentenceTransformer
    loss: torch.nn.Module
    examples: int
    batches: Batches
    collate: Callable[[Sequence[Mapping[str, int]]], dict[str, Any]]


class Companion(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Something that goes along with a training, and has a state of its own beside its checkpoints."""

    def resume(self, learner: torch.nn.Module, checkpoint: Path | None) -> None:
        """Begin, or go on from ``checkpoint``; before the first step."""

    def save(self, checkpoint: Path, step: int) -> None:
        """Add to a checkpoint that is being written."""


def fit(task: Task, schedule: Schedule, folder: Path, companions: Sequence[Companion] = ()) -> list[dict[str, float]]:
    """Train ``task.model`` in place, going on from the last complete checkpoint under ``folder``.

    Returns:
        The training log: step, epoch, loss, learning rate, gradient norm every few steps.

    Raises:
        TrainingError: the loss is not finite; names the step.
    """
    progress = _Progress(task.what)
    checkpoints = _Checkpoints(companions)
    trainer = _Trainer(
        batches=task.batches,
        model=task.model,
        loss=task.loss,
        args=_arguments(schedule, folder / _CHECKPOINTS),
        train_dataset=Dataset.from_dict({"index": range(task.examples)}),
        data_collator=task.collate,
        callbacks=[*companions, progress, checkpoints],
    )
    trainer.remove_callback(PrinterCallback)
    last = last_checkpoint(folder / _CHECKPOINTS)
    for companion in companions:
        companion.resume(task.loss, last)
    try:
        trainer.train(resume_from_checkpoint=str(last) if last is not None else None)
    finally:
        progress.close()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint. What a kill left half-written is removed."""
    found = {int(path.name.rpartition("-")[2]): path for path in folder.glob("checkpoint-*")}
    for path in found.values():
        if not (path / _MARKER).is_file():
            shutil.rmtree(path)
    complete = {step: path for step, path in found.items() if path.exists()}
    return complete[max(complete)] if complete else None


def write_result(folder: Path, summary: Mapping[str, str | int | float | None], log: Sequence[Mapping[str, float]]) -> None:
    """Declare the training finished: nothing of it is repeated after a kill from here on."""
    write_text(folder / RESULT, json.dumps({"summary": dict(summary), "log": list(log)}, indent=1))
    shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)


def read_result(folder: Path) -> dict[str, str | int | float | None] | None:
    """The summary of a training that finished in ``folder``, if one did."""
    path = folder / RESULT
    if not path.is_file():
        return None
    shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)
    summary: dict[str, str | int | float | None] = json.loads(path.read_text(encoding="utf-8"))["summary"]
    return summary


def _arguments(schedule: Schedule, folder: Path) -> SentenceTransformerTrainingArguments:
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=schedule.epochs,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=schedule.warmup_share,
        seed=schedule.seed,
        bf16=has_bf16(),
        save_strategy="steps",
        save_steps=schedule.save_steps,
        logging_steps=_LOGGING_STEPS,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


class _Trainer(SentenceTransformerTrainer):  # type: ignore[misc]  # sentence-transformers is not typed
    """Our batches, checkpoints of plain weights (so that adapters and routes need no loader of their own), no model card."""

    def __init__(self, batches: Batches, **arguments: Any) -> None:
        self._batches = batches
        super().__init__(**arguments)

    def get_batch_sampler(self, *_: object, **__: object) -> Batches:
        return self._batches

    def add_model_card_callback(self, *_: object) -> None:
        return None

    def compute_loss(self, *arguments: Any, **named: Any) -> Any:
        result = super().compute_loss(*arguments, **named)
        loss = result[0] if isinstance(result, tuple) else result
        if not bool(torch.isfinite(loss)):
            step = self.state.global_step + 1
            raise TrainingError(f"the loss is {loss.item()} at step {step} of {self.state.max_steps}; lower learning_rate")
        return result

    def _save(self, output_dir: str, **_: object) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), Path(output_dir) / _WEIGHTS)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        weights = torch.load(Path(checkpoint_path) / _WEIGHTS, map_location=self.args.device, weights_only=True)
        self.model.load_state_dict(weights)


class _Checkpoints(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Marks a checkpoint when all of it is on the disk, then removes those before it."""

    def __init__(self, companions: Sequence[Companion]) -> None:
        self._companions = companions

    def on_save(self, args: TrainingArguments, state: TrainerState, _: TrainerControl, **__: object) -> None:
        folder = Path(args.output_dir)
        new = folder / f"checkpoint-{state.global_step}"
        for companion in self._companions:
            companion.save(new, state.global_step)
        for path in new.rglob("*"):
            if path.is_file():
                fsync_file(path)
        write_text(new / _MARKER, "")
        for old in folder.glob("checkpoint-*"):
            if old != new:
                shutil.rmtree(old)


class _Progress(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """A bar in a terminal, lines in a log, in place of the trainer's own bar."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._steps: Iterator[int] = iter(())

    def on_train_begin(self, _: TrainingArguments, state: TrainerState, *__: object, **___: object) -> None:
        self._steps = track(range(state.global_step, state.max_steps), self._what)

    def on_step_begin(self, *_: object, **__: object) -> None:
        next(self._steps, None)

    def close(self) -> None:
        """Finish the bar, also after a failure."""
        closing = getattr(self._steps, "close", None)
        if closing is not None:
            closing()
