"""Processes for what kills itself or trains in two: forked from one that has imported torch and the rest, which takes seconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
HEAVY = ["tiny_walk", "two_processes"]
_LONGEST_SECONDS = 300.0


def exit_codes(function: Callable[..., object], *given: Sequence[object]) -> list[int | None]:
    """Call ``function`` with the arguments of each, at once, each in a process of its own; how they ended."""
    context = get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    processes: list[BaseProcess] = [context.Process(target=function, args=tuple(arguments)) for arguments in given]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))  # by which the first one imports them
        for process in processes:
            process.start()
    for process in processes:
        process.join(_LONGEST_SECONDS)
    for process in processes:
        process.kill()
    return [process.exitcode for process in processes]
