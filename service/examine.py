"""``python -m service.examine``: judges the snapshot of the Case on its standard input; see ``service.apart``, which runs it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO

from service.niceness import NICER

if TYPE_CHECKING:
    from service.apart import Case, Word
    from service.inspection import Incumbent

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Read, judge, answer; only a crash has another exit code than 0."""
    _step_back()
    from service.apart import case_json  # only now: the imports alone are a second of work

    case = case_json().validate_json(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is not part of the answer
    judge(case, answers)
    return 0


def judge(case: Case, answers: BinaryIO) -> None:
    """Write a Word a line: each step as it begins, then the verdict."""
    from service.apart import Word, word_json
    from service.gate import Record, plain
    from service.generation import Beside, open_generation
    from service.inspection import Inspection
    from snapshot.layout import Layout
    from snapshot.manifest import read_bytes
    from snapshot.signing import Trust
    from snapshot.verify import verify

    def say(word: Word) -> None:
        answers.write(word_json().dump_json(word) + b"\n")
        answers.flush()

    layout = Layout(case.root)
    record = Record(case.root.name, case.forced, case.why, time.monotonic)
    inspection = Inspection(record, case.options, _peer(case), case.recent, comparing=case.comparing)
    error: Exception | None = None
    digest = ""
    try:
        digest = sha256(read_bytes(layout.manifest)).hexdigest()
        keys = tuple(map(bytes.fromhex, case.trusted_keys))
        checked = partial(verify, threads=1, trust=Trust(keys, case.signature_required) if keys else None)
        beside = Beside(inspector=inspection)
        generation = open_generation(layout, case.loading, lambda step: say(Word(step=step)), beside, checked)
        generation.close()
    except Exception as refused:  # noqa: BLE001 - becomes the verdict, by its name: what a library raises over a hostile file
        error = refused
    report = record.report(error)
    checks = [replace(check, value=plain(check.value), limit=plain(check.limit)) for check in report.checks]
    say(Word(None, checks, report.code, report.reason, digest))


def _peer(case: Case) -> Callable[[], AbstractContextManager[Incumbent | None]]:
    """What serves, as the process that serves it has described it."""
    from service.inspection import Incumbent, nothing_serves
    from snapshot.errors import EngineError
    from snapshot.layout import Layout

    if case.serving is None or case.serving_manifest is None:
        return nothing_serves
    found = dict(zip(case.recent, map(list, case.best_ids), strict=False))

    def best_ids(queries: Sequence[str]) -> list[list[str]]:
        if case.unasked is not None:
            raise EngineError(case.unasked)
        return [found[query] for query in queries]

    incumbent = Incumbent(case.serving_manifest, Layout(case.serving), best_ids)
    return lambda: nullcontext(incumbent)


def _step_back() -> None:
    """As far behind the event loop as workers are, with a tenth of its weight: with none, a busy machine never ends a swap.
    And gone when the service is: stopped under load, this process would outlive it and hold the snapshot's lease.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(NICER)


if __name__ == "__main__":
    sys.exit(main())
