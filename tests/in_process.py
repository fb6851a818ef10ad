"""A command line run in this process: what it prints and how it ends, without what a process of its own takes to start."""

from __future__ import annotations

import importlib
import io
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest


def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As ``python -m PROGRAM ARGUMENTS`` with these variables too, but for the process. Its streams are no terminals."""
    main = importlib.import_module(f"{program}.__main__").main
    hang_up = signal.getsignal(signal.SIGHUP)
    printed, said = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(said):
        patch.setattr(sys, "argv", [program, *arguments])
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGHUP, hang_up)
    code = ended.value.code
    texts = [stream.buffer.getvalue().decode() for stream in (printed, said)]
    return subprocess.CompletedProcess([program, *arguments], code if isinstance(code, int) else int(code is not None), *texts)
