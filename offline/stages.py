"""What a stage is, and how a run goes on after a kill.

Each stage owns one folder of the work folder. Before it works it writes ``inputs.json`` (a digest of everything
that its output depends on) and ``config.json`` (its effective config); when it has finished, ``receipt.json`` with
the same digest, the size and hash of every file made, and what it took. A stage whose receipt fits is not run again. A folder
with fitting inputs but no receipt is partial work of a killed run, which the stage may go on from; with other inputs
it is wiped; and a folder without ``inputs.json`` is somebody else's, and is left alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from offline.cost import peak_resident_bytes, seconds_before
from offline.errors import OfflineError, StageError, StorageError
from offline.recipe import Recipe
from offline.runners import RunnerName
from snapshot.files import link_or_copy, sha256, write_text

Summary = Mapping[str, str | int | float | None]
"""What a stage says about its result, in a line and in its receipt."""

RECEIPT = "receipt.json"
INPUTS = "inputs.json"
CONFIG = "config.json"
_OWN = frozenset({RECEIPT, INPUTS, CONFIG})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_STORAGE = _NO_ROOM | frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST})
_FULL_DISK = ("No space left", " requested and ")
"""In the words of the operating system, and of numpy when it wrote less than it should have."""
_LEAST_FREE_BYTES = 16 << 20


@dataclass(frozen=True)
class Source:
    """What the user pointed at."""

    data: Path | None = None
    query_log: Path | None = None
    registry: Path = Path("registry")
    parent: Path | None = None
    """Folder of the sealed snapshot that a walk of ``offline.since`` or ``offline.reuse`` goes on from."""
    document_tower: Path | None = None
    """Folder of the tower that made the parent's document vectors."""
    runner: RunnerName = "local"
    """Who encodes; no output depends on it."""


@dataclass(frozen=True)
class Job:
    """One stage at work.

    Attributes:
        folder: where the stage writes; may hold its own partial work from a killed run with the same inputs.
        inputs: finished folders of the stages that it needs, by the last part of their names.
    """

    recipe: Recipe
    source: Source
    folder: Path
    inputs: Mapping[str, Path]


def nothing_more(_recipe: Recipe, _source: Source) -> Mapping[str, Any]:
    """The default of ``Stage.outside``."""
    return {}


def nothing_outside(_job: Job) -> bool:
    """The default of ``Stage.still_holds``."""
    return True


@dataclass(frozen=True)
class Stage:
    """A step of the walk.

    Attributes:
        name: also that of its folder; in ``since/encode`` it is the stage ``encode`` of another walk.
        needs: stages whose output it reads.
        sections: recipe sections that its output depends on.
        outside: what else its output depends on, such as hashes of data files (small, JSON).
        still_holds: whether what it did outside its folder is still there; asked where the receipt fits.
        version: raised when the code changes what it writes.
    """

    name: str
    run: Callable[[Job], Summary]
    needs: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    outside: Callable[[Recipe, Source], Mapping[str, Any]] = nothing_more
    still_holds: Callable[[Job], bool] = nothing_outside
    version: int = 1


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: ``reused`` says that a receipt made running unnecessary."""

    stage: str
    folder: Path
    summary: Summary
    seconds: float
    reused: bool

    def describe(self) -> str:
        """A line for people."""
        how = "kept, its receipt fits" if self.reused else f"done in {self.seconds:.1f} s"
        figures = ", ".join(f"{key} {_figure(value)}" for key, value in self.summary.items() if value is not None)
        return f"{how} → {self.folder}" + (f": {figures}" if figures else "")


def _figure(value: str | int | float | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run_stage(stage: Stage, work: Path, recipe: Recipe, source: Source) -> Outcome:
    """Run ``stage`` in ``work/<name>`` unless its receipt fits.

    Raises:
        StageError: an earlier stage has not finished, its files are not those of its receipt, or the folder is not ours.
        StorageError: the disk is full or not writable. Partial work stays for the next run.
    """
    folder = work / stage.name
    with storage_errors(folder):
        return _run(stage, folder, work, recipe, source)


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Say what to do when ``folder`` cannot be written.

    Raises:
        StorageError: in place of the operating system's error, and of what libraries make of it.
    """
    try:
        yield
    except OfflineError:
        raise
    except Exception as error:
        if not _is_of_storage(error, folder):
            raise
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        is_place = isinstance(error, OSError) and error.errno not in (None, *_NO_ROOM)
        raise StorageError(
            f"{folder}: {said}; {'' if is_place else 'make room or '}choose another folder with --out, then run the same command "
            "again: finished stages are not repeated"
        ) from error


def _is_of_storage(error: Exception, folder: Path) -> bool:
    """Libraries drop the error number (numpy, torch, faiss) or keep it in words alone (safetensors, tokenizers)."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _STORAGE or _is_above(error.filename, folder)
    if any(words in str(error) for words in _FULL_DISK):
        return True
    is_vague = isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError"
    return is_vague and _free_bytes(folder) < _LEAST_FREE_BYTES


def _is_above(filename: object, folder: Path) -> bool:
    """Whether an error is of the folder itself or of one that it lies in, such as one in which nothing can be made."""
    return isinstance(filename, str) and Path(filename) in (folder, *folder.parents)


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free


def take_over(stage: Stage, work: Path, recipe: Recipe, source: Source, donors: Iterable[Path]) -> Path | None:
    """Link the stage's output from the first of the work folders ``donors`` where a run with the same inputs has finished.

    Returns:
        The donor; None where there is none, or where ``work`` has the output or a beginning of it already.

    Raises:
        StageError, StorageError: as ``run_stage``.
    """
    digest = _inputs_digest(stage, work, recipe, source)
    started = _read(work / stage.name / INPUTS)
    if started is not None and started["inputs"] == digest:
        return None
    for donor in donors:
        receipt = _read(donor / stage.name / RECEIPT)
        if receipt is not None and receipt["inputs"] == digest and _intact(donor / stage.name, receipt["outputs"]):
            with storage_errors(work / stage.name):
                _link(donor / stage.name, work / stage.name, receipt["outputs"])
            return donor
    return None


def _link(source: Path, target: Path, outputs: Iterable[str]) -> None:
    """Outputs are never changed in place, so that they can be links; our own files are, and are copied.

    Until all outputs are there the folder's inputs fit nothing, so that what a kill leaves is wiped and not gone on from.
    """
    _begin(target, "", {})
    for name in outputs:
        (target / name).unlink(missing_ok=True)
        link_or_copy(source / name, target / name)
    for own in (CONFIG, INPUTS, RECEIPT):
        write_text(target / own, (source / own).read_text(encoding="utf-8"))


def _sections(stage: Stage, recipe: Recipe) -> dict[str, Any]:
    return {name: getattr(recipe, name).model_dump(mode="json") for name in stage.sections}


def _inputs_digest(stage: Stage, work: Path, recipe: Recipe, source: Source) -> str:
    return _digest(
        {
            "stage": stage.name,
            "version": stage.version,
            "config": _sections(stage, recipe),
            "outside": stage.outside(recipe, source),
            "needs": {name: finished(work, name, stage.name)["outputs"] for name in stage.needs},
        }
    )


def is_finished(stage: Stage, work: Path, recipe: Recipe, source: Source) -> bool:
    """Whether the receipt of a stage fits, so that nothing of it is to be run."""
    receipt = _read(work / stage.name / RECEIPT)
    if receipt is None:
        return False
    try:
        digest = _inputs_digest(stage, work, recipe, source)
    except StageError:
        return False
    return bool(receipt["inputs"] == digest) and _intact(work / stage.name, receipt["outputs"])


def _run(stage: Stage, folder: Path, work: Path, recipe: Recipe, source: Source) -> Outcome:
    config, digest = _sections(stage, recipe), _inputs_digest(stage, work, recipe, source)
    receipt = _read(folder / RECEIPT)
    fits = receipt is not None and receipt["inputs"] == digest and _intact(folder, receipt["outputs"])
    if receipt is not None and fits and stage.still_holds(make_job(stage, work, recipe, source)):
        return Outcome(stage.name, folder, receipt["summary"], receipt["seconds"], reused=True)
    before = _begin(folder, digest, config)
    started = time.monotonic()
    summary = stage.run(make_job(stage, work, recipe, source))
    seconds = before + time.monotonic() - started
    record = {
        "stage": stage.name,
        "inputs": digest,
        "summary": dict(summary),
        "seconds": seconds,
        "resident_bytes": peak_resident_bytes(),
        "outputs": _outputs(folder),
    }
    write_text(folder / RECEIPT, json.dumps(record, indent=2))
    return Outcome(stage.name, folder, summary, seconds, reused=False)


def make_job(stage: Stage, work: Path, recipe: Recipe, source: Source) -> Job:
    """The job of a stage in its folder under ``work``."""
    return Job(recipe, source, work / stage.name, _inputs(stage, work))


def _inputs(stage: Stage, work: Path) -> Mapping[str, Path]:
    return {PurePosixPath(name).name: work / name for name in stage.needs}


def _begin(folder: Path, digest: str, config: Mapping[str, Any]) -> float:
    """Keep partial work with the same inputs; wipe that with others; touch no folder that is not ours.

    Returns:
        Seconds that went into the partial work.
    """
    _refuse_foreign(folder)
    started, before = _read(folder / INPUTS), 0.0
    if started is None or started["inputs"] != digest:
        _wipe(folder)
    elif "began" in started and not (folder / RECEIPT).is_file():
        before = seconds_before(folder / INPUTS, started["began"], started["seconds"])
    for torn in list(folder.rglob(".*.tmp")):  # what a kill in the middle of a write left
        _remove(torn)
    (folder / RECEIPT).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / INPUTS, json.dumps({"inputs": digest, "began": time.time(), "seconds": before}))
    write_text(folder / CONFIG, json.dumps(config, indent=2))
    return before


def _refuse_foreign(folder: Path) -> None:
    if not folder.is_dir() or (folder / INPUTS).is_file():
        return
    if any(not path.match(f".{INPUTS}.*.tmp") for path in folder.iterdir()):  # which a kill leaves before there is an INPUTS
        raise StageError(f"{folder} is not a folder of ours: it holds files, but no {INPUTS}; choose another --out")


def _wipe(folder: Path) -> None:
    """A kill half-way leaves an empty ``inputs.json``: still ours, and fitting nothing. Emptying it needs no room."""
    if not folder.is_dir():
        return
    if (folder / INPUTS).is_file():
        os.truncate(folder / INPUTS, 0)
    for path in folder.iterdir():
        if path.name != INPUTS:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def finished(work: Path, name: str, wanted_by: str) -> dict[str, Any]:
    """The receipt of a stage; StageError where there is none, or where its files are not there."""
    receipt = _read(work / name / RECEIPT)
    if receipt is None:
        raise StageError(f"{wanted_by} needs the output of {name}, which has not finished in {work}; run the stage {name} first")
    if not _intact(work / name, receipt["outputs"]):
        raise StageError(f"{work / name}: files are missing or have another size than {RECEIPT} says; run the stage {name} again")
    return receipt


def _outputs(folder: Path) -> dict[str, dict[str, int | str]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).as_posix() not in _OWN)
    return {path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}


def _intact(folder: Path, outputs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Sizes only: a receipt must be cheap to check. Hashes are checked where trust matters, on the sealed snapshot."""
    paths = ((folder / name, entry["bytes"]) for name, entry in outputs.items())
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
