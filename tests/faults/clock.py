"""A clock of one process that can be set back: time by the calendar, as the C library gives it to that process alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.faults.fault import SkippedError
from tests.faults.searches import Searches
from tests.faults.stage import FLAGS, Stage, check
from tests.faults.toys import FORMER, OTHER
from tests.live import start, until

_DAY_SECONDS = 86_400
_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    const char *back = getenv("FAULTS_CLOCK_BACK");
    if (!failed && clock == CLOCK_REALTIME && back && !access(back, F_OK)) now->tv_sec -= SECONDS;
    return failed;
}
"""


def library(folder: Path) -> Path:
    """To be preloaded; SkippedError where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise SkippedError("no C compiler (cc)")
    source, made = folder / "clock.c", folder / "clock.so"
    source.write_text(_SOURCE.replace("SECONDS", str(_DAY_SECONDS)))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(made), str(source), "-ldl"], check=True)
    return made


def set_back(stage: Stage) -> str:
    """A service whose clock goes back by a day: it goes on answering, follows, and backs off by a clock that does not."""
    back = stage.folder / "back"
    preload = {"LD_PRELOAD": str(library(stage.folder)), "FAULTS_CLOCK_BACK": str(back)}
    other = stage.bring().root.name
    live = start(stage.folder, stage.registry.root, *FLAGS, environment=preload)
    try:
        until(live, live.ready, "ready")
        with Searches(live.port, {stage.former: FORMER, other: OTHER}) as searches:
            searches.wait_for_more()
            before = live.log_lines()[-1]["timestamp"]
            back.touch()
            stage.registry.activate(other, "after the clock was set back", who="tests")
            until(live, lambda: live.get("/info")[1]["serving"] == other, f"{other} serving")
            searches.wait_for_more()
        after = live.log_lines()[-1]["timestamp"]
        check(after < before, f"the clock was not set back: {before}, then {after}")
        check(not searches.failures, f"searches failed: {searches.failures[:3]}")
        return f"it swapped at {after}, having started at {before}"
    finally:
        live.stop()
