"""One run as JSON: every row of every round, what ran it, and the verdicts."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from pydantic import BaseModel, ValidationError

from snapshot.files import write_text
from tests.bench.figures import Row, Rows
from tests.bench.goals import Verdict, judge
from tests.bench.promises import GOALS

_LIBRARIES = ("fastapi", "uvicorn", "onnxruntime", "tokenizers", "faiss-cpu", "numpy", "sentence-transformers", "torch")
_ROOT = Path(__file__).parents[2]


class Result(BaseModel):
    """A finished run.

    Attributes:
        command: what made it, without paths.
        about: corpus and sizes, for people.
    """

    command: str
    finished_at: datetime
    commit: str
    machine: dict[str, str]
    versions: dict[str, str]
    about: dict[str, str]
    rows: list[Row]

    @property
    def verdicts(self) -> list[Verdict]:
        """On every goal that was measured."""
        return judge(Rows(self.rows), GOALS)

    def write(self, path: Path) -> None:
        write_text(path, self.model_dump_json())


def read_result(path: Path) -> Result:
    """What a run wrote; ends the process with a line where ``path`` is nothing of the kind."""
    advice = "name the JSON that a run of make bench wrote, work/bench/result.json unless it was told"
    try:
        return Result.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror}; {advice}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise SystemExit(f"{path}: no record of a run ({place}: {first['msg']}); {advice}") from error


def finished(command: str, about: dict[str, str], rows: list[Row]) -> Result:
    """Rows with what is known of this machine and this code."""
    return Result(
        command=command,
        finished_at=datetime.now(UTC),
        commit=_commit(),
        machine=_machine(),
        versions={"python": platform.python_version(), **{library: version(library) for library in _LIBRARIES}},
        about=about,
        rows=rows,
    )


def _commit() -> str:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=_ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _machine() -> dict[str, str]:
    load = ", ".join(f"{value:.1f}" for value in psutil.getloadavg())
    return {
        "cores": str(len(psutil.Process().cpu_affinity() or [])),
        "processor": _processor(),
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.machine()}",
        "load average at the end, 1, 5 and 15 minutes": load,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
