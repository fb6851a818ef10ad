"""Processes that die, and disks that are full, at every step of what they write.

A step is a call that changes a file system or makes a change durable. What runs is real; only the call in question is not made.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from typing import Any

STEPS = ("rename", "replace", "link", "mkdir", "fsync", "write", "ftruncate")
CLEAN_UP = ("unlink", "rmdir")
_REFUSED, _MANAGED = 10, 11
"""Exit codes of a child."""


def at_step(number: int, do: Callable[[], None], names: tuple[str, ...]) -> Callable[[], bool]:
    """Call ``do`` before the ``number``th step of this process, counted from 1; returns whether it has come to that."""
    left = [number]

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                do()
            return call(*arguments, **options)

        return counted

    for name in names:
        setattr(os, name, counting(getattr(os, name)))
    shutil.copyfile = counting(shutil.copyfile)
    return lambda: left[0] <= 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def killed_at(number: int, act: Callable[[], object]) -> bool:
    """Run ``act`` in a child that is killed before its ``number``th step; False where it ended before that."""
    child = os.fork()
    if child == 0:
        at_step(number, die, STEPS + CLEAN_UP)
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - a child must not go on as its parent
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def full_at(number: int, act: Callable[[], object], refused: type[Exception]) -> bool:
    """Run ``act`` in a child whose disk is full at its ``number``th step; False where it ended before that.

    It must say so by the error ``refused``, or have found another way.
    """
    child = os.fork()
    if child == 0:
        come_to = at_step(number, full, STEPS)
        try:
            act()
        except refused as error:
            os._exit(_REFUSED if "No space left" in str(error) else 1)
        except BaseException as error:  # noqa: BLE001 - as above
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(_MANAGED if come_to() else 0)
    _, status = os.waitpid(child, 0)
    assert os.WEXITSTATUS(status) in (0, _REFUSED, _MANAGED)
    return os.WEXITSTATUS(status) != 0
