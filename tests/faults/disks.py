"""Disks that are full, and registries that cannot be written."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snapshot.registry import Registry
from tests.faults.fault import Fault, SkippedError
from tests.faults.searches import Searches
from tests.faults.stage import Stage, check, command, copied_into, serving
from tests.faults.toys import FORMER, OTHER, make
from tests.live import until

_SMALL = "size=1m,nr_inodes=200"
_FILLER = "filler.bin"


def faults() -> list[Fault]:
    return [
        Fault("disk_full_while_publishing", "survived", _full_publish, quick=True),
        Fault("disk_full_while_activating", "survived", _full_activate),
        Fault("disk_full_while_swapping", "survived", _full_swap),
        Fault("read_only_registry", "survived", _read_only),
        Fault("read_only_registry_at_start", "survived", _read_only_start),
    ]


@contextmanager
def mounted(folder: Path, *how: str) -> Iterator[Path]:
    """``mount HOW folder`` until the block ends; SkippedError where this machine does not allow it."""
    folder.mkdir(exist_ok=True)
    made = subprocess.run(["mount", *how, str(folder)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise SkippedError(f"mount is not allowed here ({made.stderr.strip()}); run it as root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def small_disk(stage: Stage) -> Iterator[Registry]:
    """A registry on a disk of a megabyte, in which the former is wanted."""
    with mounted(stage.folder / "disk", "-t", "tmpfs", "-o", _SMALL, "tmpfs") as disk:
        registry = Registry(disk / "registry")
        former = make(registry.root, FORMER)
        registry.activate(former.root.name, "for a fault", who="tests")
        yield registry


def fill(disk: Path) -> None:
    """Write until nothing more fits, not even an empty file of a few bytes."""
    with (disk / _FILLER).open("wb", buffering=0) as handle:
        try:
            while True:
                handle.write(bytes(4096))
        except OSError:
            return


def _full_publish(stage: Stage) -> str:
    """A real publication onto a full disk: refused by name, nothing half is left, and it succeeds when there is room."""
    publish = ("0", "publish")
    with small_disk(stage) as registry:
        former, history = registry.current(), len(registry.history())
        fill(registry.root.parent)
        _refused_by_name(registry, publish, str(stage.other.root))
        check(registry.ids() == [former], f"a full disk left {registry.ids()}")
        check(registry.current() == former, f"CURRENT names {registry.current()}")
        check(len(registry.history()) == history, "the history has a publication that failed")
        (registry.root.parent / _FILLER).unlink()
        registry.publish(stage.other.root, who="tests")
        check(len(registry.ids()) == 2, "the next publication did not succeed")
    stage.serves(stage.former)
    return "refused, nothing half; published when there was room"


def _refused_by_name(registry: Registry, doing: tuple[str, str], argument: str) -> None:
    ended = command(*doing, str(registry.root), argument, program=("-m", "tests.faults.dying"))
    check(ended.code != 0, f"{doing[1]} succeeded on a full disk")
    last = ended.said.strip().splitlines()[-1]
    check(last.startswith("snapshot.errors."), f"{doing[1]} on a full disk is no error of ours: {last}")
    check("o space left" in last, f"{doing[1]} does not say that the disk is full: {last}")


def _full_activate(stage: Stage) -> str:
    with small_disk(stage) as registry, serving(stage.folder, registry.root) as live:
        former = registry.current() or ""
        other = copied_into(registry, stage.other).root.name
        until(live, live.ready, "ready")
        fill(registry.root.parent)
        said = command("activate", other, "--registry", str(registry.root)).refused("activate on a full disk")
        check(registry.current() == former, f"CURRENT names {registry.current()}")
        with Searches(live.port, {former: FORMER}) as searches:
            searches.wait_for_more(5)
        check(not searches.failures, f"searches failed: {searches.failures[:3]}")
        (registry.root.parent / _FILLER).unlink()
        registry.activate(other, "there is room again", who="tests")
        until(live, lambda: live.get("/info")[1]["serving"] == other, f"{other} serving")
    return said


def _full_swap(stage: Stage) -> str:
    """What is wanted was written before the disk filled up: to swap, nothing has to be written."""
    slowly = ("--follow-interval-seconds", "3600")
    with small_disk(stage) as registry, serving(stage.folder, registry.root, *slowly) as live:
        former, other = registry.current() or "", copied_into(registry, stage.other).root.name
        until(live, live.ready, "ready")
        registry.activate(other, "before the disk filled up", who="tests")
        fill(registry.root.parent)
        with Searches(live.port, {former: FORMER, other: OTHER}) as searches:
            live.process.send_signal(signal.SIGHUP)
            until(live, lambda: live.get("/info")[1]["serving"] == other, f"{other} serving")
            searches.wait_for_more(5)
        check(not searches.failures, f"searches failed: {searches.failures[:3]}")
    return "the other serves"


def _read_only(stage: Stage) -> str:
    """The service sees the registry through a mount that it cannot write; operators write on the other side."""
    registry = Registry(stage.folder / "written")
    former = make(registry.root, FORMER).root.name
    registry.activate(former, "for a fault", who="tests")
    with _read_only_view(stage, registry) as view, serving(stage.folder, view) as live:
        until(live, live.ready, "ready")
        said = command("activate", former, "--registry", str(view)).refused("activate on a read-only mount")
        other = copied_into(registry, stage.other).root.name
        with Searches(live.port, {former: FORMER, other: OTHER}) as searches:
            registry.activate(other, "from the other side", who="tests")
            until(live, lambda: live.get("/info")[1]["serving"] == other, f"{other} serving")
            registry.rollback("and back", who="tests")
            until(live, lambda: live.get("/info")[1]["serving"] == former, f"{former} serving")
            searches.wait_for_more(5)
        check(not searches.failures, f"searches failed: {searches.failures[:3]}")
        wrong = [line for line in live.log_lines() if line.get("level") == "error"]
        check(not wrong, f"errors in the log: {wrong[:2]}")
    return said


def _read_only_start(stage: Stage) -> str:
    registry = Registry(stage.folder / "written")
    former = make(registry.root, FORMER).root.name
    registry.activate(former, "for a fault", who="tests")
    damaged = copied_into(registry, stage.other)
    os.truncate(damaged.index, 10)
    with _read_only_view(stage, registry) as view, serving(stage.folder, view) as live:
        until(live, live.ready, "ready")
        registry.activate(damaged.root.name, "it cannot be served, nor this be written by the service", who="tests")
        until(live, lambda: live.get("/info")[1]["last_error"] is not None, "refused")
        info = live.get("/info")[1]
        check(info["last_error"]["code"] == "hash_mismatch", f"refused as {info['last_error']['code']}")
        check(info["serving"] == former, f"{info['serving']} serves")
        return f"{info['last_error']['code']}; {former} went on"


@contextmanager
def _read_only_view(stage: Stage, registry: Registry) -> Iterator[Path]:
    with mounted(stage.folder / "view", "--bind", str(registry.root)) as view:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(view)], check=True)
        yield view
