"""``python -m service gate``: what the gate says about a snapshot on this machine, without a server."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import typer

from service.cores import available_cores, plan_threads
from service.doctor.command import or_error
from service.gate import Check, GateReport, Record, format_figure
from service.generation import Beside, Generation, GenerationOptions, open_generation
from service.inspection import Incumbent, Inspection, Peer, nothing_serves
from service.loader import gate_options, generation_options
from service.settings import Settings, load_settings, trust_of
from snapshot.cli import print_table
from snapshot.errors import RefusedApartError, SnapshotError
from snapshot.layout import Layout
from snapshot.printable import printable
from snapshot.registry import Registry
from snapshot.verify import verify


def run(registry: str, snapshot: str, against: str | None, as_json: bool, keys: Sequence[Path] = ()) -> int:
    """Judge, print, and give the exit code: 0 it may serve, 1 it must not, 2 that could not be told.

    With ``keys`` these are trusted in place of those in the settings, and one of them must have signed.
    """
    trusting = {"trusted_keys": tuple(keys), "require_signature": True} if keys else {}
    given = {"registry": registry, **trusting}
    return or_error(lambda: show(inspect(load_settings(given), snapshot, against), as_json), as_json)


def inspect(settings: Settings, snapshot: str, against: str | None) -> GateReport:
    """Load a snapshot as the service would, and judge it; compared with ``against`` on the golden queries of both.

    Raises:
        SnapshotError: there is no such snapshot, or ``against`` cannot be loaded.
    """
    registry = Registry(settings.registry)
    layout = registry.layout(snapshot)
    threads = plan_threads(available_cores(), settings.threads, settings.encoder_threads)
    options = generation_options(settings, threads)
    other = None if against is None else _open_other(registry.layout(against), options)
    inspection = Inspection(
        Record(snapshot, forced=False, why="", clock=time.monotonic),
        gate_options(settings),
        peer=nothing_serves if other is None else _always(other),
        recent=() if other is None else other.golden.queries,
    )
    try:
        checked = partial(verify, trust=trust_of(settings))
        open_generation(layout, options, _no_matter, Beside(other, inspector=inspection), checked).close()
    except Exception as error:  # noqa: BLE001 - becomes the verdict, by its name: what a library raises over a hostile file
        return inspection.report(error)
    finally:
        if other is not None:
            other.close()
    return inspection.report()


def _open_other(layout: Layout, options: GenerationOptions) -> Generation:
    try:
        return open_generation(layout, options, _no_matter)
    except SnapshotError:
        raise
    except Exception as error:
        reason = f"{layout.root.name}: cannot be loaded to be compared with ({type(error).__name__}: {error}); name another one"
        raise RefusedApartError(reason, "internal") from error


def show(report: GateReport, as_json: bool) -> int:
    """Print a report; the exit code."""
    if as_json:
        sys.stdout.write(json.dumps(report.as_dict(), indent=1) + "\n")
    else:
        print_table(("check", "value", "limit", "passed", "forcible", "what"), map(_cells, report.checks))
        verdict = f"{report.snapshot}: {report.reason}" if report.reason else f"{report.snapshot}: passed"
        typer.echo(printable(verdict))
    return 0 if report.passed else 1


def _cells(check: Check) -> tuple[str, ...]:
    figures = format_figure(check.value), format_figure(check.limit)
    return (check.name, *figures, _yes(check.passed), _yes(check.forcible), check.detail)


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


def _always(generation: Generation) -> Peer:
    def peer() -> AbstractContextManager[Incumbent | None]:
        return nullcontext(Incumbent.of(generation))

    return peer


def _no_matter(step: str) -> None:
    """Nobody follows the steps."""
