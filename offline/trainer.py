"""Running transformers' trainer so that a kill at any moment costs at most ``save_steps`` steps.

A checkpoint counts only once a marker lies in it, which is written after everything else; a run goes on from the last
such checkpoint, with the same batches and the same dropout as if it had never stopped. Nothing is written outside the
stage's folder, and nothing is reported to anybody.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.training_args import ParallelMode

from offline.batches import Batches
from offline.distributed import barrier, rank, without_gpu, world
from offline.errors import TrainingError
from offline.learner import Learner
from offline.progress import track
from offline.towers import has_bf16, training_attention
from snapshot.files import fsync_file, write_text

_CHECKPOINTS = "checkpoints"
_MARKER = "complete"
_WEIGHTS = "weights.pt"
RESULT = "training.json"
_LOGGING_STEPS = 10
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
_LOST = ("connection closed by peer", "connection reset by peer", "broken pipe", "timed out waiting", "timeout", "remote process")
"""In the words of torch and of its backends for several processes."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn; see the recipe's sections train and distill."""

    epochs: float
    learning_rate: float
    warmup_share: float
    seed: int
    save_steps: int
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Task:
    """What to learn.

    Attributes:
        what: what to call it while progress is shown.
        model: what learns.
        loss: see ``Learner``; holds the model as a module of its own.
        precision: see ``train.precision``.
        collate: from examples, each with its number as ``index``, to the inputs of the loss.
    """

    what: str
    model: SentenceTransformer
    loss: torch.nn.Module
    examples: int
    batches: Batches
    collate: Callable[[Sequence[Mapping[str, int]]], dict[str, Any]]
    precision: Literal["auto", "fp32"] = "auto"


class Companion(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Something that goes along with a training, and has a state of its own in its checkpoints."""

    def resume(self, checkpoint: Path | None) -> None:
        """Begin, or go on from ``checkpoint``; before anything else."""

    def save(self, checkpoint: Path, step: int) -> None:
        """Add to a checkpoint that is being written, in every process."""


def fit(task: Task, schedule: Schedule, folder: Path, companions: Sequence[Companion] = ()) -> list[dict[str, float]]:
    """Train ``task.model`` in place, going on from the last complete checkpoint under ``folder``.

    Returns:
        The training log: step, epoch, loss, learning rate, gradient norm every few steps.

    Raises:
        TrainingError: the loss is not finite (names the step), there is not enough memory, or another process died.
    """
    progress = _Progress(task.what)
    last = last_checkpoint(folder / _CHECKPOINTS)
    batches = task.batches.mine()
    trainer = _Trainer(
        batches=batches,
        model=Learner(task.model, task.loss, task.precision),
        args=_arguments(schedule, folder / _CHECKPOINTS, task.precision),
        train_dataset=_Numbers(task.examples),
        data_collator=task.collate,
        callbacks=[_Epochs(batches), *companions, progress, _Checkpoints(companions)],
    )
    trainer.remove_callback(PrinterCallback)
    for companion in companions:
        companion.resume(last)
    try:
        with _diagnosed(trainer), training_attention(task.model, task.precision):
            trainer.train(resume_from_checkpoint=str(last) if last is not None else None)
    finally:
        progress.close()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@contextmanager
def _diagnosed(trainer: Trainer) -> Iterator[None]:
    """Name what only a library's stack trace would tell; what is not known goes through."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        words = str(error).lower()
        at = f"at step {trainer.state.global_step + 1} of {trainer.state.max_steps}"
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(part in words for part in _NO_MEMORY):
            raise TrainingError(
                f"out of memory {at}. Set mini_batch_size (the batch stays as it is), lower max_document_tokens or batch_size, "
                "or set gradient_checkpointing or lora; the run goes on from its last checkpoint where the recipe is the same"
            ) from error
        if torch.distributed.is_initialized() and any(part in words for part in _LOST):
            raise TrainingError(
                f"another process of this training died or does not answer {at} ({str(error).splitlines()[0]}). Its own "
                "output says why; an end without a message is most often the kernel's out-of-memory killer (dmesg). Start the "
                "same command again: it goes on from the last checkpoint"
            ) from error
        raise


class _Numbers(Dataset):  # type: ignore[misc]  # torch is not typed
    """Examples are known by their numbers; the collator has the rest."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"index": index}


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint. What a kill left half-written is removed."""
    found = {int(path.name.rpartition("-")[2]): path for path in folder.glob("checkpoint-*")}
    complete = {step: path for step, path in found.items() if (path / _MARKER).is_file()}
    barrier()  # whoever is ahead must not write, or remove, what another still looks at
    for step in found.keys() - complete.keys() if rank() == 0 else ():
        shutil.rmtree(found[step])
    barrier()
    return complete[max(complete)] if complete else None


def write_result(
    folder: Path,
    summary: Mapping[str, str | int | float | None],
    log: Sequence[Mapping[str, float]],
    more: Mapping[str, Any] | None = None,
) -> None:
    """Declare the training finished: nothing of it is repeated after a kill from here on."""
    write_text(folder / RESULT, json.dumps({"summary": dict(summary), "log": list(log), **(more or {})}, indent=1))
    shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)


def read_result(folder: Path) -> dict[str, str | int | float | None] | None:
    """The summary of a training that finished in ``folder``, if one did."""
    path = folder / RESULT
    if not path.is_file():
        return None
    shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)
    summary: dict[str, str | int | float | None] = json.loads(path.read_text(encoding="utf-8"))["summary"]
    return summary


def _arguments(schedule: Schedule, folder: Path, precision: str) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=schedule.epochs,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=schedule.warmup_share,
        weight_decay=schedule.weight_decay,
        seed=schedule.seed,
        use_cpu=without_gpu(),
        bf16=has_bf16() and precision == "auto",
        save_strategy="steps",
        save_steps=schedule.save_steps,
        logging_steps=_LOGGING_STEPS,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    if world() > 1 and arguments.parallel_mode != ParallelMode.DISTRIBUTED:
        raise TrainingError(
            f"{world()} processes, but accelerate sees one ({arguments.parallel_mode}); start them by accelerate launch"
        )
    if arguments.n_gpu > 1:  # one process would cut batches up among them (DataParallel); accelerate launch is for that
        arguments._n_gpu = 1  # noqa: SLF001 - there is no public way
    return arguments


class _Trainer(Trainer):  # type: ignore[misc]  # transformers is not typed
    """Our batches, shared out among processes, and checkpoints of plain weights, so that adapters need no loader of their own."""

    def __init__(self, batches: Batches, **arguments: Any) -> None:
        self._batches = batches
        super().__init__(**arguments)

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.train_dataset,
            batch_sampler=self._batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
            generator=torch.Generator(),  # its own, so that what dropout draws does not depend on how often one is begun
        )

    def compute_loss(self, *arguments: Any, **named: Any) -> Any:
        result = super().compute_loss(*arguments, **named)
        loss = result[0] if isinstance(result, tuple) else result
        if not bool(torch.isfinite(loss)):
            step = self.state.global_step + 1
            raise TrainingError(f"the loss is {loss.item()} at step {step} of {self.state.max_steps}; lower learning_rate")
        return result

    def _save(self, output_dir: str, **_: object) -> None:
        if self.args.should_save:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            torch.save(self.model.state_dict(), Path(output_dir) / _WEIGHTS)

    def _load_from_checkpoint(self, checkpoint_path: str, model: torch.nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(checkpoint_path, model)
            return
        weights = torch.load(Path(checkpoint_path) / _WEIGHTS, map_location=self.args.device, weights_only=True)
        self.model.load_state_dict(weights)


class _Epochs(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Tells the batches which epoch begins, or is gone on with."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def on_epoch_begin(self, _: TrainingArguments, state: TrainerState, *__: object, **___: object) -> None:
        self._batches.set_epoch(state.global_step // len(self._batches))


class _Checkpoints(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Marks a checkpoint when all of it is on the disk, then removes those before it.

    The loss is logged with each: what a trainer has summed up since the last log is in no checkpoint.
    """

    def __init__(self, companions: Sequence[Companion]) -> None:
        self._companions = companions

    def on_step_end(self, _: TrainingArguments, __: TrainerState, control: TrainerControl, **___: object) -> None:
        control.should_log |= control.should_save

    def on_save(self, args: TrainingArguments, state: TrainerState, _: TrainerControl, **__: object) -> None:
        folder = Path(args.output_dir)
        new = folder / f"checkpoint-{state.global_step}"
        for companion in self._companions:
            companion.save(new, state.global_step)
        barrier()
        if rank() > 0:
            return
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
