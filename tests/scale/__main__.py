"""``python -m tests.scale [PART ...]``: what goes past one machine, measured where its parts install.

Each part prints ``GOAL <name> <figure> <bound> ok|short``; one that cannot run here says in a line why. Without a name: all.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence

PARTS = {
    "contract": "every engine against exact search, also over 100,000 rows; a real Milvus server and PostgreSQL among them",
    "milvus": "swaps between FAISS and Milvus, a killed server, the overhead of our layer",
    "sharded": "an index of several files, built within bounded memory",
    "ray": "encoding on Ray, with a worker killed",
    "rolling": "three replicas behind a balancer, restarted, swapped and slowed under load",
    "plan": "the plan's simulation beside one, two and three local replicas",
}


def main(argv: Sequence[str]) -> int:
    """Run the named parts, or all; what follows ``--`` goes to each. 1 where one of them is short."""
    names, _, rest = " ".join(argv).partition("--")
    wanted = names.split() or list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        sys.stderr.write(f"error: no part {unknown[0]!r}; there are: {', '.join(PARTS)}\n")
        return 2
    codes = [_run(name, rest.split()) for name in wanted]
    return int(any(codes))  # below zero where one was ended by a signal


def _run(name: str, argv: list[str]) -> int:
    print(f"{name}: {PARTS[name]}", flush=True)
    module = f"tests.scale.{name}"
    if importlib.util.find_spec(module) is None:
        print(f"{name}: not in this checkout ({module.replace('.', '/')}.py)")
        return 0
    try:
        part = importlib.import_module(module)
    except ImportError as error:
        print(f"{name}: not installed here ({error})")
        return 0
    try:
        code: int = part.main(argv)
    except Exception:  # noqa: BLE001 - the other parts are still to be run; this one counts as short
        traceback.print_exc()
        code = 1
    if code:
        print(f"{name}: short, or it did not come to its end (exit code {code})", flush=True)
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
