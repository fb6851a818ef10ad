"""One training on several processes (``accelerate launch``): what they exchange. With one process all of it is nothing.

Only the stage ``train`` is computed by all; the first process runs the walk, and calls the others when it gets there. After it
they part: what comes later is computed by the first process as if it had been started alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional

T = TypeVar("T")
_PATIENCE = timedelta(days=7)
"""The others wait while the first process prepares data."""
_LAUNCHED = ("ACCELERATE_", "FSDP_", "GROUP_RANK", "GROUP_WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "RANK", "WORLD_SIZE")
"""How the variables begin by which launchers tell a process that it is one of several."""
_GO, _END = "go", "end"
_LETTING_GO_SECONDS = 0.1
"""Many times what gloo's threads need once the interpreter's lock is free."""


def rank() -> int:
    """Number of this process; 0 where there is one."""
    return int(dist.get_rank()) if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes compute together."""
    return int(dist.get_world_size()) if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def without_gpu() -> bool:
    """Whether several processes compute on the CPU, which accelerate must be told."""
    return world() > 1 and not torch.cuda.is_available()


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, [n of all, width], with gradients that go back to their owners.

    Processes may hold different numbers of rows, and of columns where the tensor is of integers, which -1 fills up.
    """
    if not dist.is_initialized() or world() == 1:
        return rows
    shape = torch.tensor(rows.shape, device=rows.device)
    shapes = [torch.empty_like(shape) for _ in range(world())]
    dist.all_gather(shapes, shape)
    most, widest = (int(size) for size in torch.stack(shapes).amax(dim=0))
    missing = (0, widest - rows.shape[1], 0, most - rows.shape[0])
    padded = functional.pad(rows, missing, value=0 if rows.is_floating_point() else -1).contiguous()
    parts = _Gather.apply(padded)
    return torch.cat([part[: int(size[0])] for part, size in zip(parts, shapes, strict=True)])


class _Gather(torch.autograd.Function):  # type: ignore[misc]  # torch is not typed
    """float[n, width] of each process to float[processes, n, width]; a gradient is the sum of what all send back."""

    @staticmethod
    def forward(_: object, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world())]
        dist.all_gather(parts, rows)
        return torch.stack(parts)

    @staticmethod
    def backward(_: object, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        dist.all_reduce(total)
        return total[rank()]


def gather_objects(item: T) -> list[T]:
    """What each process holds, in the order of their numbers."""
    if not dist.is_initialized() or world() == 1:
        return [item]
    items: list[T | None] = [None] * world()
    dist.all_gather_object(items, item)
    return [each for each in items if each is not None]


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized() and world() > 1:
        dist.barrier()


def leave() -> None:
    """Leave the other processes for good.

    gloo's threads let go of the last tensors under a lock of the group and need the interpreter's for it; the group's end, which
    holds the interpreter's, waits for the group's: without a moment between the two it may wait for ever (torch 2.13).
    """
    if dist.is_initialized():
        time.sleep(_LETTING_GO_SECONDS)
        dist.destroy_process_group()


class Crew:
    """The first process and those that wait for it, before and after the stage that all compute."""

    _line: dist.ProcessGroup | None = None

    @classmethod
    def join(cls) -> None:
        """Meet the other processes, once; afterwards every process has a device of its own."""
        if cls._line is None:
            PartialState(cpu=without_gpu())
            cls._line = dist.new_group(backend="gloo", timeout=_PATIENCE)

    @classmethod
    def call(cls) -> None:
        """Let the others compute the stage with the first, which calls this; elsewhere, and alone, it does nothing."""
        if cls._line is not None and rank() == 0:
            cls._tell(_GO)

    @classmethod
    def dismiss(cls) -> None:
        """The stage is over; the first process calls this."""
        cls._tell(_END)

    @classmethod
    def part(cls) -> bool:
        """Part for good: whether this is the first process, which goes on alone and may train by itself; others are to end."""
        is_first = rank() == 0
        leave()
        cls._line = None
        AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001 - else trainers still take it for one of several
        GradientState._reset_state()  # noqa: SLF001 - likewise
        for name in [name for name in os.environ if name.startswith(_LAUNCHED)]:
            del os.environ[name]
        return is_first

    @classmethod
    def follow(cls, compute: Callable[[], object]) -> None:
        """Wait for the first process, and ``compute`` each time it calls, until it dismisses."""
        while cls._tell(None) == _GO:
            compute()

    @classmethod
    def _tell(cls, word: str | None) -> str | None:
        said = [word]
        dist.broadcast_object_list(said, src=0, group=cls._line)
        return said[0]
