"""The engine contract test over a real Milvus server: every case, filters of random kinds, 100,000 rows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.goals import Verdict
from tests.scale.alone import INSIDE, obstacle, run_inside

_FILES = ("test_contract.py", "test_milvus_filter.py", "test_large.py")
_FOLDER = "tests/service/engines"
_LEAST_RECALL = 0.95


def main(argv: list[str]) -> int:
    """Print the goal; 1 where it is short."""
    if INSIDE not in argv:
        why = obstacle()
        if why is not None:
            print(f"contract: {why}")
            return 0
        return run_inside("tests.scale.contract", argv)
    sys.path.append("tests")
    from milvus_servers import MilvusReal
    from remote_engines import REAL_SERVER

    with tempfile.TemporaryDirectory(prefix="milvus-") as folder:
        server = MilvusReal(Path(folder) / "data")
        server.start()
        try:
            return _judge({**os.environ, REAL_SERVER: server.uri})
        finally:
            server.kill()


def _judge(environment: dict[str, str]) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-m", "milvus", "-p", "no:cacheprovider"]
    command += [f"{_FOLDER}/{name}" for name in _FILES]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    recalls = [float(found) for found in re.findall(r"^share .* recall@10 ([0-9.]+) ", run.stdout, flags=re.MULTILINE)]
    failed = sum(int(count) for count in re.findall(r"(\d+) (?:failed|error)", run.stdout))
    passed = sum(int(count) for count in re.findall(r"(\d+) passed", run.stdout))
    if run.returncode or not passed or not recalls:
        print(run.stdout[-6000:], run.stderr[-2000:])
        failed = max(failed, 1)
    least = min(recalls, default=0.0)
    is_enough, bound = least >= _LEAST_RECALL, f">={_LEAST_RECALL}"
    verdicts = [
        Verdict("engine_contract_failed", f"of {passed + failed} cases", float(failed), "<=0", failed == 0, failed, failed),
        Verdict(
            "engine_recall",
            "least recall@10 of 100,000 rows at the recorded effort",
            least,
            bound,
            is_enough,
            least,
            1.0,
        ),
    ]
    for verdict in verdicts:
        print(verdict.line(), flush=True)
    return int(not all(verdict.is_met for verdict in verdicts))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
