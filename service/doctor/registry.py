"""The registry and the snapshot that it wants, as the service would load it: files, golden proof, index, memory, latency."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial

from service.cores import available_cores, plan_threads
from service.doctor.findings import Finding, Verdict
from service.doctor.timings import Timing, check_timing, time_stages
from service.gate import INTEGRITY, NOT_APPLICABLE, Check, GateOptions, Record, format_figure
from service.generation import Beside, Generation, open_generation
from service.inspection import Inspection
from service.loader import gate_options, generation_options
from service.memory import available_bytes, held_bytes, mapped_bytes
from service.settings import Settings, trust_of, variable
from snapshot.cli import size
from snapshot.errors import RegistryError, SnapshotError
from snapshot.layout import Layout
from snapshot.manifest import Manifest
from snapshot.registry import Registry
from snapshot.verify import verify

Timer = Callable[[Generation, Layout], list[Timing]]
_ADVICE: Mapping[str, str] = {
    "signature": "ask who published it; sign it by python -m snapshot sign ID --key FILE --registry DIR, or roll back",
    "schema": "upgrade the service, or activate a snapshot made by the older version",
    "hashes": "python -m snapshot rollback --registry DIR --why …, then publish or pull it again, and look at the disk",
    "parts": "publish it again, or roll back: python -m snapshot rollback --registry DIR --why …",
    "space": "run export, index and pack again from one run; never mix folders",
    "counts": "publish it again, or roll back: python -m snapshot rollback --registry DIR --why …",
    "golden_vectors": "the query tower does not compute here what it did where it was made: try on another machine, or roll back",
    "golden_hits": "the index does not find here what exact search found where it was made: publish it again, or roll back",
    "memory": "more memory, a smaller snapshot, or smaller caches",
    "recall": "build the index again (python -m offline index RECIPE), or roll back",
    "required_ids": "look at the source of the documents, or correct the list",
    "p99": "fewer requests at a time cannot help: a lower effort, a smaller query tower, a faster machine, or a longer budget",
}
_DESIRED = "CURRENT names one of the registry's snapshots"


class _Timed(Inspection):
    """An inspection that also times each stage, before anything can be refused for quality."""

    def __init__(self, record: Record, options: GateOptions, timer: Timer) -> None:
        super().__init__(record, options)
        self.timings: list[Timing] = []
        self._timer = timer
        self._layout: Layout | None = None

    def sealed(self, layout: Layout, manifest: Manifest) -> None:
        self._layout = layout
        super().sealed(layout, manifest)

    def judge(self, generation: Generation) -> None:
        assert self._layout is not None  # noqa: S101 - sealed before it is judged
        self.timings = self._timer(generation, self._layout)
        super().judge(generation)


def check_registry(settings: Settings, snapshot: str | None, timer: Timer = time_stages) -> list[Finding]:
    """Look at what the registry wants served, or at another snapshot of it.

    Raises:
        SnapshotError: the registry cannot be read, or there is no such snapshot.
    """
    registry = Registry(settings.registry)
    try:
        desired, unreadable = registry.current(), registry.unreadable()
    except RegistryError as error:
        again = f"python -m snapshot activate ID --registry {registry.root} --why …"
        desired, findings = None, [Finding("desired", "wrong", str(error), _DESIRED, again)]
    else:
        findings = [check_desired(desired, registry.ids(), unreadable, _remedy(registry))]
    wanted = snapshot or desired
    if wanted is not None and (snapshot or findings[0].verdict != "wrong"):
        layout = registry.layout(wanted)
        findings += check_snapshot(settings, layout, timer)
        findings += _room(settings, registry, wanted)
    return findings


def newest(settings: Settings) -> datetime | None:
    """When the registry's newest snapshot was made; None where it has none."""
    return max((manifest.created_at for manifest in Registry(settings.registry).manifests()), default=None)


def manifest_of(settings: Settings, snapshot: str | None) -> Manifest | None:
    """Of the snapshot that is looked at; None where there is none to read."""
    registry = Registry(settings.registry)
    try:
        wanted = snapshot or registry.current()
        return None if wanted is None else registry.read(wanted)
    except SnapshotError:
        return None


def _remedy(registry: Registry) -> str:
    ids, offered = registry.ids(), registry.offered()
    if offered is not None:
        return f"python -m snapshot activate {offered} --registry {registry.root} --why …"
    why = f"services have declined all {len(ids)}: python -m snapshot history --registry {registry.root}"
    return why if ids else f"publish one: python -m offline run RECIPE --registry {registry.root}"


def check_desired(desired: str | None, ids: list[str], unreadable: Mapping[str, str], remedy: str = "") -> Finding:
    """Whether the registry wants a snapshot that is there; ``remedy`` is what to do where it does not."""
    seen = f"CURRENT names {desired or 'nothing'}; {len(ids)} snapshots" + (
        f", {len(unreadable)} of them unreadable" if unreadable else ""
    )
    if desired not in ids:
        return Finding("desired", "wrong", seen, _DESIRED, f"services that start now serve nothing: {remedy}")
    verdict: Verdict = "wrong" if desired in unreadable else "warn" if unreadable else "ok"
    first = next(iter(unreadable.items()), ("", ""))
    return Finding.of("desired", verdict, seen, _DESIRED, f"{first[0]}: {first[1]}")


def check_snapshot(settings: Settings, layout: Layout, timer: Timer = time_stages) -> list[Finding]:
    """Verify, open, prove and time it; the first damage ends it, as it would end loading."""
    plan = plan_threads(available_cores(), settings.threads, settings.encoder_threads)
    options = replace(generation_options(settings, plan), batching=False)
    record = Record(layout.root.name, forced=False, why="", clock=time.monotonic)
    inspection = _Timed(record, gate_options(settings), timer)
    error: Exception | None = None
    try:
        checked = partial(verify, trust=trust_of(settings))
        open_generation(layout, options, _unheard, Beside(inspector=inspection), checked).close()
    except (SnapshotError, OSError) as refused:
        error = refused
    report = inspection.report(error)
    judged = [of_check(check) for check in report.checks if not check.detail.startswith(NOT_APPLICABLE)]
    return [*judged, *map(check_timing, inspection.timings)]


def of_check(check: Check) -> Finding:
    """A check of the gate as a finding, named ``snapshot: NAME``."""
    value = format_figure(check.value)
    seen = f"{value} {check.detail}".strip() if value else check.detail
    limit = format_figure(check.limit)
    sealed = check.name in INTEGRITY and not check.name.startswith("golden")
    expected = "as it was sealed" if sealed else f"limit {limit}" if limit else "as the manifest says"
    advice = _ADVICE.get(check.name, "see docs/runbook.md")
    return Finding.of(f"snapshot: {check.name}", "ok" if check.passed else "wrong", seen, expected, advice)


def check_swap_memory(needed: int, available: int | None, share: float) -> Finding:
    """Whether two snapshots fit beside each other, as they must while a swap is on.

    Beside a service that runs, one of them is counted twice as far as it is held; what is mapped counts as free.

    Args:
        needed: bytes that both hold and map.
        available: bytes that are left; None where the system does not say.
        share: of these, that both may take (``gate_memory_share``).
    """
    expected = f"two snapshots, {size(needed)}, in {share:.0%} of what is left"
    if available is None:
        return Finding("swap_memory", "unknown", "the system does not say", expected, "look at the machine's own tools")
    short = needed > share * available
    advice = (
        f"the next swap is refused (gate_memory), or pages push each other out: more memory, "
        f"{variable('keep_former')}=false, or a restart on the new snapshot alone"
    )
    return Finding.of("swap_memory", "wrong" if short else "ok", f"{size(available)} left", expected, advice)


def check_disk(free: int, largest: int) -> Finding:
    """Whether another snapshot as large as the largest can be brought in."""
    expected = f"room for one more of {size(largest)}"
    advice = "publishing and pulling will end with disk_full: python -m snapshot gc --keep 3 --registry DIR --dry-run"
    return Finding.of("disk", "ok" if free > largest else "wrong", f"{size(free)} free", expected, advice)


def _room(settings: Settings, registry: Registry, wanted: str) -> list[Finding]:
    """Memory and disk for the snapshot and another one: the one before it, else one of the same size."""
    manifests = {manifest.id: manifest for manifest in registry.manifests()}
    if wanted not in manifests:
        return []
    one = manifests[wanted]
    other = manifests.get(registry.before() or "", one)
    needed = _needed_bytes(registry, one, other, gate_options(settings))
    largest = max(sum(entry.bytes for entry in manifest.files.values()) for manifest in manifests.values())
    return [
        check_swap_memory(needed, available_bytes(), settings.gate_memory_share),
        check_disk(shutil.disk_usage(settings.registry).free, largest),
    ]


def _needed_bytes(registry: Registry, one: Manifest, other: Manifest, options: GateOptions) -> int:
    held = sum(held_bytes(manifest, options.filter_cache_bytes) for manifest in (one, other))
    try:
        mapped = mapped_bytes([(registry.layout(manifest.id), manifest) for manifest in (one, other)])
    except OSError:  # a file is missing, which another check says
        mapped = sum(entry.bytes for manifest in (one, other) for entry in manifest.files.values())
    return held + (2 * mapped if one is other else mapped)


def _unheard(step: str) -> None:
    """Nobody follows the steps."""
