"""The engine contract test over every engine that installs here: every case, filters of random kinds, 100,000 rows.

``--servers`` leaves out what ``make test`` runs anyway: then it is the real Milvus server alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.bench.goals import Verdict
from tests.scale.alone import INSIDE, obstacle, run_inside

_FILES = ("test_contract.py", "test_milvus_filter.py", "test_large.py")
_FOLDER = "tests/service/engines"
_LEAST_RECALL = 0.95
SERVERS = "--servers"


def main(argv: list[str]) -> int:
    """Print the goals; 1 where one is short."""
    sys.path.append("tests")
    from remote_engines import LARGE, REAL_SERVER

    environment = {**os.environ, LARGE: "1"}
    why = None if INSIDE in argv else obstacle()
    if why is not None:
        print(f"contract: without a real Milvus server: {why}")
        return 0 if SERVERS in argv else _judge(environment, [])
    if INSIDE not in argv:
        return run_inside("tests.scale.contract", argv)
    from milvus_servers import MilvusReal

    with tempfile.TemporaryDirectory(prefix="milvus-") as folder:
        server = MilvusReal(Path(folder) / "data")
        server.start()
        try:
            return _judge({**environment, REAL_SERVER: server.uri}, ["-m", "milvus"] if SERVERS in argv else [])
        finally:
            server.kill()


def _judge(environment: dict[str, str], options: list[str]) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-rA", *options, "-p", "no:cacheprovider"]
    command += [f"{_FOLDER}/{name}" for name in _FILES]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    failed = sum(int(count) for count in re.findall(r"(\d+) (?:failed|error)", run.stdout))
    passed = sum(int(count) for count in re.findall(r"(\d+) passed", run.stdout))
    recalls = recalls_of(run.stdout)
    if run.returncode or not passed or not recalls:
        print(run.stdout[-6000:], run.stderr[-2000:])
        failed = max(failed, 1)
    about = f"of {passed + failed} cases"
    verdicts = [Verdict("engine_contract_failed", about, float(failed), "<=0", failed == 0, failed, failed), *_recalls(recalls)]
    for verdict in verdicts:
        print(verdict.line(), flush=True)
    return int(not all(verdict.is_met for verdict in verdicts))


def recalls_of(output: str) -> dict[str, list[float]]:
    """By engine, recall@10 at every share of 100,000 rows."""
    found: dict[str, list[float]] = defaultdict(list)
    for engine, recall in re.findall(r"^(\S+), share .* recall@10 ([0-9.]+) ", output, flags=re.MULTILINE):
        found[engine].append(float(recall))
    return found


def _recalls(recalls: dict[str, list[float]]) -> Iterator[Verdict]:
    about = "least recall@10 of 100,000 rows at the recorded effort, whatever is selected"
    for engine, found in recalls.items():
        least = min(found)
        name, is_enough = f"engine_recall_{engine.replace('-', '_')}", least >= _LEAST_RECALL
        yield Verdict(name, about, least, f">={_LEAST_RECALL}", is_enough, least, max(found))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
