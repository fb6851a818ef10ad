"""``python -m service doctor`` on a machine where much is wrong, and what it prints."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from serving import make_registry

from service.doctor.command import run
from service.doctor.findings import Finding, Report, show

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("SCALINGNOTE_")}
WAIT_SECONDS = 120


def test_faults_of_the_machine_are_found_from_a_process_that_has_them(tmp_path: Path) -> None:
    """A low limit on open files, more threads than cores, FAISS without the processor's instructions: all real."""
    make_registry(tmp_path)
    faults = {"SCALINGNOTE_THREADS": "64", "FAISS_SIMD_LEVEL": "NONE"}
    command = [sys.executable, "-m", "service", "doctor", "--registry", str(tmp_path), "--json"]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=ENVIRONMENT | faults,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)),
    )
    assert (ended.returncode, ended.stderr) == (1, "")
    told: dict[str, Any] = json.loads(ended.stdout)
    found = {finding["check"]: finding for finding in told["findings"]}
    assert found["files"]["seen"] == "100 connections (limit 200)"
    assert {found[name]["verdict"] for name in ("files", "threads")} == {"wrong"}
    assert (found["faiss"]["verdict"] == "ok") is ("avx2" not in found["faiss"]["expected"])
    assert {found[name]["verdict"] for name in ("desired", "snapshot: hashes", "snapshot: golden_vectors", "disk")} == {"ok"}
    assert told["wrong"] == sum(finding["verdict"] == "wrong" for finding in told["findings"])


REPORT = Report(
    "registry",
    (
        Finding("cores", "ok", "2 cores", "1"),
        Finding("tokens", "warn", "off", "a file", "make one"),
        Finding("files", "wrong", "few\x1b[2J", "many", "raise the limit"),
    ),
)


def test_people_see_what_is_wrong_first_and_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(REPORT, as_json=False) == 1
    printed = capsys.readouterr().out
    assert printed.index("files") < printed.index("tokens") < printed.index("cores")
    assert "wrong: files: raise the limit\nwarn: tokens: make one\n" in printed
    assert printed.endswith("3 checks: 1 wrong, 1 to mind, 0 unknown, 1 well\n")
    assert "\x1b" not in printed


def test_a_warning_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(Report("registry", REPORT.findings[:2]), as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["findings"][1]["advice"] == "make one"


@pytest.mark.parametrize(
    ("registry", "url", "code"),
    [
        (None, None, "settings_invalid"),
        ("missing", None, "registry_error"),
        (None, "http://127.0.0.1:1", "service_unreachable"),
        (None, "127.0.0.1", "service_unreachable"),
    ],
)
def test_what_cannot_be_looked_at_ends_with_two_in_both_forms(
    registry: str | None, url: str | None, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(registry, url, None, 30.0, as_json=False) == 2
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.splitlines()), printed.err.startswith("error: ")) == ("", 1, True)
    assert run(registry, url, None, 30.0, as_json=True) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
