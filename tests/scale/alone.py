"""A real Milvus server in a network namespace of its own: it binds all interfaces, on a dozen ports."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

_SCRIPT = 'ip link set lo up && exec "$@"'
INSIDE = "--inside"


def obstacle() -> str | None:
    """Why it cannot run here; None where it can."""
    missing = [name for name in ("milvus", "pymilvus") if importlib.util.find_spec(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}; pip install milvus==2.3.5 'scalingnote[milvus]'"
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        return "no network namespace of its own can be made here (unshare --net needs root)"
    return None


def run_inside(module: str, argv: list[str]) -> int:
    """The same module again, inside such a namespace; its exit code."""
    command = [sys.executable, "-m", module, INSIDE, *argv]
    return subprocess.call(["unshare", "--net", "bash", "-c", _SCRIPT, "alone", *command], env={**os.environ})
