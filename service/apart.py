"""The gate in a process of its own, while another snapshot serves.

There it shares neither the interpreter's lock nor a place in the queue for the processor with those who answer requests, and
a snapshot that crashes a parser takes down that process only. What comes back are the checks and a verdict, as JSON; this
process then opens what has passed, looks whether its files are still those that were hashed, and asks the golden queries again.
"""

from __future__ import annotations

import functools
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import IO

from pydantic import TypeAdapter, ValidationError

from service.bounds import Bounds, Deadline
from service.checks import ENOUGH_QUERIES
from service.gate import Check, GateOptions
from service.generation import GenerationOptions, Step, Verify
from service.inspection import Incumbent, Inspection
from service.spare import Spare
from service.stamps import Stamps
from snapshot.errors import EngineError, GateDiedError, HashMismatchError, RefusedApartError
from snapshot.layout import Layout
from snapshot.manifest import Manifest, parse_manifest, read_bytes
from snapshot.signing import Trust

Enter = Callable[[Step], None]

COMMAND = (sys.executable, "-m", "service.examine")
_LOOK_SECONDS = 0.02
_LEAST_REST_SECONDS = 0.002
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Case:
    """What the other process is asked.

    Attributes:
        root: folder of the candidate.
        forced: whether figures of quality may be beyond their limits; ``why`` is the operator's reason.
        comparing: whether it is to be like what serves.
        options: the limits.
        loading: how it is loaded.
        trusted_keys: whose signatures count, in hexadecimal.
        signature_required: whether one must be there.
        recent: queries of users, the latest first.
        serving: folder of the snapshot that serves.
        serving_manifest: of it, as it was verified: what its disk has by now is no reason to refuse a candidate.
        best_ids: what each of ``recent`` finds in it.
        unasked: why that could not be asked.
    """

    root: Path
    forced: bool
    why: str
    comparing: bool
    options: GateOptions
    loading: GenerationOptions
    trusted_keys: Sequence[str]
    signature_required: bool
    recent: Sequence[str]
    serving: Path | None
    serving_manifest: Manifest | None
    best_ids: Sequence[Sequence[str]]
    unasked: str | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """A line of the answer: a step that begins, or the verdict with which it ends.

    Attributes:
        step: that begins; all else is empty then.
        checks: all that was found.
        code: of the error that refused it, and ``reason``, its message; None where it passed.
        manifest: sha256 of the manifest's bytes.
    """

    step: Step | None = None
    checks: Sequence[Check] = ()
    code: str | None = None
    reason: str | None = None
    manifest: str = ""


@functools.cache
def case_json() -> TypeAdapter[Case]:
    """A Case as JSON."""
    return TypeAdapter(Case)


@functools.cache
def word_json() -> TypeAdapter[Word]:
    """A Word as JSON."""
    return TypeAdapter(Word)


class Apart:
    """Has candidates judged in a process of its own, one at a time."""

    def __init__(
        self,
        options: GateOptions,
        loading: GenerationOptions,
        trust: Trust | None,
        spare: Spare | None = None,
        command: Sequence[str] = COMMAND,
        bounds: Callable[[int], Bounds] = Bounds.of,
    ) -> None:
        """``bounds``: what the process may take for a snapshot of so many bytes."""
        self._options = options
        self._loading = replace(loading, batching=False)  # what batches gain is measured where they are made
        self._trust = trust
        self._spare = spare or Spare()
        self._command = command
        self._bounds = bounds

    def judge(self, layout: Layout, inspection: Inspection, enter: Enter) -> Verify:
        """Have the snapshot at ``layout`` judged; what is found goes into the inspection's record.

        Returns:
            How to verify it here, without reading it all again.

        Raises:
            RefusedApartError: it may not serve.
            GateDiedError: there is no verdict, or not in time.
            Exception: what ``enter`` or the inspection's ``pace`` raises to give up.
        """
        enter("verifying")  # which the process does first; on a busy machine it takes a minute to start
        stamps = Stamps.of(layout)
        case = case_json().dump_json(self._case(layout, inspection))
        bounds = self._bounds(stamps.bytes)
        with _process(self._command, case) as (process, complaints):
            bounds.impose(process.pid)
            deadline = Deadline(bounds.seconds)
            verdict = _listen(process, enter, partial(_tick, process, self._spare, inspection.pace, deadline))
            if verdict is None:
                raise GateDiedError(_obituary(layout, process.wait(), complaints))
        inspection.record.add(*verdict.checks)
        if verdict.code is not None:
            raise RefusedApartError(verdict.reason or verdict.code, verdict.code)
        return lambda root: _unchanged(Layout(root), verdict.manifest, stamps)

    def _case(self, layout: Layout, inspection: Inspection) -> Case:
        (forced, why), trust = inspection.record.force, self._trust
        with inspection.peer() as serving:
            compared = serving is not None and inspection.comparing and len(inspection.recent) >= ENOUGH_QUERIES
            best, unasked = _asked(serving, inspection.recent) if serving is not None and compared else ([], None)
            inspection.record.compared_with(None if serving is None else serving.manifest.id)
            beside, manifest = (None, None) if serving is None else (serving.layout.root.absolute(), serving.manifest)
        return Case(
            root=layout.root.absolute(),
            forced=forced,
            why=why,
            comparing=inspection.comparing,
            options=self._options,
            loading=self._loading,
            trusted_keys=[] if trust is None else [key.hex() for key in trust.keys],
            signature_required=trust is not None and trust.required,
            recent=inspection.recent,
            serving=beside,
            serving_manifest=manifest,
            best_ids=best,
            unasked=unasked,
        )


def _asked(serving: Incumbent, queries: Sequence[str]) -> tuple[list[list[str]], str | None]:
    """What each query finds in what serves, or why that cannot be said: its server may be gone."""
    try:
        return serving.best_ids(queries), None
    except EngineError as error:
        return [], str(error)


@contextmanager
def _process(command: Sequence[str], case: bytes) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """The other process, which has heard the case; it does not outlive the block."""
    with _scratch() as question, _scratch() as complaints:
        question.write(case)
        question.seek(0)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        try:
            process = subprocess.Popen(command, stdin=question, stdout=subprocess.PIPE, stderr=complaints, env=environment)
        except OSError as error:
            message = f"the gate's own process cannot be started ({error.strerror}); look at the system's limits"
            raise GateDiedError(message) from error
        with process:
            try:
                yield process, complaints
            finally:
                process.kill()


def _scratch() -> IO[bytes]:
    """A file without a name; in memory where the system has such, since a container may have no folder to write to."""
    return os.fdopen(os.memfd_create("gate"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()


def _tick(process: subprocess.Popen[bytes], spare: Spare, pace: Callable[[], None], deadline: Deadline) -> None:
    """Between two looks at what the other process says: stop it for as long as its last slice asks for."""
    pace()
    deadline.check()
    rest = spare.rest_seconds(_LOOK_SECONDS)
    if rest >= _LEAST_REST_SECONDS:
        process.send_signal(signal.SIGSTOP)
        time.sleep(rest)
        deadline.rested(rest)
        process.send_signal(signal.SIGCONT)


def _listen(process: subprocess.Popen[bytes], enter: Enter, tick: Callable[[], None]) -> Word | None:
    """Hand on the steps; the verdict, or None where the process ends without one."""
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    heard = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            tick()
            if not selector.select(_LOOK_SECONDS):
                continue
            piece = os.read(process.stdout.fileno(), 1 << 16)
            heard += piece
            *lines, heard = heard.split(b"\n")
            for line in lines:
                word = _understood(line)
                if word is None or word.step is None:
                    return word
                enter(word.step)
            if not piece:
                return None


def _understood(line: bytes) -> Word | None:
    try:
        return word_json().validate_json(line)
    except ValidationError:
        return None


def _obituary(layout: Layout, status: int, complaints: IO[bytes]) -> str:
    complaints.seek(0)
    last = complaints.read().decode(errors="replace").strip().splitlines()[-1:]
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
    how += " (more processor time than any snapshot of this size needs)" if status == -signal.SIGXCPU else ""
    said = f", saying: {last[0][:_SHOWN_CHARACTERS]}" if last else ""
    return (
        f"{layout.root.name}: the gate's own process {how} and gave no verdict{said}; if memory was short, make room; "
        f"else do not serve this snapshot, and look at it with: python -m service gate {layout.root.name}"
    )


def _unchanged(layout: Layout, digest: str, stamps: Stamps) -> Manifest:
    """The manifest of what was judged, if it is still there as it was.

    Raises:
        HashMismatchError, MissingFileError: a file has changed since it was hashed.
    """
    content = read_bytes(layout.manifest)
    if sha256(content).hexdigest() != digest:
        raise HashMismatchError(f"{layout.manifest}: has changed since it was judged; publish the snapshot again")
    manifest = parse_manifest(content, layout.manifest)
    stamps.check(layout, manifest)
    return manifest
