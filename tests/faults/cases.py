"""Every fault, in the order in which they are tried."""

from __future__ import annotations

from tests.faults import crowded, damaged, disks, hostile, killed, pointers, remote, trusted
from tests.faults.fault import Fault

FAULTS: list[Fault] = [
    *damaged.faults(),
    *hostile.faults(),
    *trusted.faults(),
    *killed.faults(),
    *crowded.faults(),
    *disks.faults(),
    *pointers.faults(),
    *remote.faults(),
]
