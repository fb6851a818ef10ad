"""How many files, sockets included, this process may have open."""

from __future__ import annotations

import resource
from contextlib import suppress

_RESERVED = 256
"""For the snapshots of a swap, logs and libraries."""
_MOST_CONNECTIONS = 16_384
"""Unless more are asked for: each one costs some 10 KB."""


def raise_file_limit() -> None:
    """Let this process open as many files as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # macOS says unlimited, and refuses more than it has
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connection_limit(asked: int | None) -> int:
    """Connections that may be open: what is asked for, as far as the limit on open files allows it; at least 1."""
    return connections_within(resource.getrlimit(resource.RLIMIT_NOFILE)[0], asked)


def connections_within(files: int, asked: int | None) -> int:
    """The same for a limit on open files, which may be ``resource.RLIM_INFINITY``."""
    wanted = _MOST_CONNECTIONS if asked is None else asked
    return wanted if files == resource.RLIM_INFINITY else min(wanted, max(1, files - min(_RESERVED, files // 2)))
