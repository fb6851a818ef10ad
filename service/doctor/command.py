"""``python -m service doctor``: which checks are made, and what an error of the doctor itself looks like."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import typer

from service.ask import Asker, read_key
from service.deadline import Deadline
from service.doctor.findings import CANNOT_CHECK, Report, show
from service.doctor.libraries import (
    FaissBuild,
    check_clock,
    check_faiss,
    check_onnxruntime,
    check_versions,
    clock_synchronised,
    processor_flags,
    providers_here,
    versions_here,
)
from service.doctor.machine import check_machine
from service.doctor.registry import check_registry, manifest_of, newest
from service.doctor.remote import check_service
from service.doctor.tokens import check_tokens
from service.errors import ServiceError, SettingsError
from service.settings import Settings, load_settings, variable
from snapshot.cli import print_json
from snapshot.errors import RegistryError, SnapshotError
from snapshot.printable import printable


def examine_machine(settings: Settings, snapshot: str | None = None) -> Report:
    """Check this machine, and what its registry wants served, or another snapshot of it.

    Raises:
        SnapshotError: the registry cannot be read, or there is no such snapshot.
    """
    try:
        there = settings.registry.is_dir()
    except OSError as error:
        raise RegistryError(
            f"{settings.registry}: cannot be read ({error.strerror}); run it as the service's own user"
        ) from error
    if not there:
        raise RegistryError(f"{settings.registry}: no folder; name the folder of snapshots with --registry")
    manifest, flags = manifest_of(settings, snapshot), processor_flags()
    precision = None if manifest is None else manifest.query_tower.precision
    findings = [
        *check_machine(settings),
        check_faiss(FaissBuild.here(), flags),
        check_onnxruntime(providers_here(), flags, precision),
        check_versions({} if manifest is None else manifest.build, versions_here()),
        check_clock(clock_synchronised(), datetime.now(UTC), newest(settings)),
        check_tokens(settings.admin_tokens_file),
        *check_registry(settings, snapshot),
    ]
    return Report(str(settings.registry), tuple(findings))


def examine_service(url: str, timeout_seconds: float, key: str | None = None) -> Report:
    """Check a running service; UnreachableError where it cannot be asked within the time."""
    deadline = Deadline.after(timeout_seconds * 1000, time.monotonic(), time.monotonic)
    asker = Asker(url, deadline, key)
    return Report(asker.url, tuple(check_service(asker)))


def run(
    registry: str | None,
    url: str | None,
    snapshot: str | None,
    timeout_seconds: float,
    as_json: bool,
    key_file: Path | None = None,
) -> int:
    """Examine, print, and give the exit code: 0 nothing is wrong, 1 something is, 2 it could not be looked at."""

    def examine() -> Report:
        if url is not None:
            return examine_service(url, timeout_seconds, read_key(key_file))
        if registry is None:
            raise SettingsError(f"name what to look at: --registry (or {variable('registry')}) for this machine, or --url")
        return examine_machine(load_settings({"registry": registry}), snapshot)

    return or_error(lambda: show(examine(), as_json), as_json)


def or_error(work: Callable[[], int], as_json: bool) -> int:
    """The exit code of ``work``, or 2 with its error: a line on standard error, or JSON on standard output."""
    try:
        return work()
    except (ServiceError, SnapshotError) as error:
        if as_json:
            print_json({"error": {"code": error.code, "message": str(error)}})
        else:
            typer.echo(f"error: {printable(str(error))}", err=True)
        return CANNOT_CHECK
