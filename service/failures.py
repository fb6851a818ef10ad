"""Codes by which failures are counted: known beforehand, so that the first failure of each is seen as an increase."""

from __future__ import annotations

from service.gate import INTEGRITY, QUALITY
from snapshot.errors import EngineError, FleetError, GateRefusedError, RemoteError, SnapshotError

_UNFORESEEN = "internal"


def _codes(kind: type[SnapshotError], *without: type[SnapshotError]) -> set[str]:
    """Of an error and of all below it, but for whole branches."""
    if kind in without:
        return set()
    return {kind.code}.union(*(_codes(below, *without) for below in kind.__subclasses__()))


REFUSALS = (
    *sorted(_codes(SnapshotError, FleetError, RemoteError, GateRefusedError)),
    *(f"gate_{check}" for check in (*INTEGRITY, *QUALITY)),
    "rolled_back",
    _UNFORESEEN,
)
"""Why a snapshot does not serve."""

REMOTE_FAILURES = (*sorted(_codes(SnapshotError, FleetError, EngineError, GateRefusedError)), _UNFORESEEN)
"""Why a remote registry cannot be followed."""
