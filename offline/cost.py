"""What stages took: seconds and memory, written into their receipts, also where a run was killed in between and went on."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_PEAK = "VmHWM:"


@dataclass(frozen=True)
class Cost:
    """Of some stages together.

    Attributes:
        seconds: wall clock, without the work that a kill undid.
        resident_bytes: the most that the process held, data that it maps included; None where a receipt does not say.
    """

    seconds: float
    resident_bytes: int | None


def cost_of(receipts: Iterable[Path], unfinished: Path | None = None) -> Cost:
    """Of the stages with these receipts, and of the one at work in whose folder ``unfinished`` is the inputs file."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in receipts]
    seconds = sum(float(receipt["seconds"]) for receipt in found)
    peaks: list[int | None] = [receipt.get("resident_bytes") for receipt in found]
    if unfinished is not None:
        started = json.loads(unfinished.read_text(encoding="utf-8"))
        seconds += started.get("seconds", 0.0) + time.time() - started.get("began", time.time())
        peaks.append(peak_resident_bytes())
    known = [peak for peak in peaks if peak is not None]
    return Cost(seconds, max(known, default=None) if len(known) == len(peaks) else None)


def peak_resident_bytes() -> int:
    """The most that this process held in memory so far. On Linux not what its parent held before it, as getrusage says."""
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith(_PEAK)).split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def seconds_before(inputs: Path, began: float, earlier: float) -> float:
    """How long a killed stage worked, from ``began`` (seconds since 1970) to the last file that it wrote, and ``earlier``."""
    times = [path.stat().st_mtime for path in inputs.parent.rglob("*") if path.is_file() and path != inputs]
    return earlier + max(0.0, max(times, default=began) - began)
