"""Builds and clocks, good ones and bad ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.doctor.findings import Verdict
from service.doctor.libraries import (
    FaissBuild,
    check_clock,
    check_faiss,
    check_onnxruntime,
    check_skew,
    check_versions,
    clock_synchronised,
    processor_flags,
    providers_here,
    versions_here,
)

NOW = datetime(2026, 11, 27, 3, 0, tzinfo=UTC)
MODERN = frozenset({"avx2", "avx512f", "avx512_vnni"})
CPU = ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("level", "flags", "verdict"),
    [
        ("AVX512", MODERN, "ok"),
        ("AVX2", MODERN, "ok"),
        ("NONE", MODERN, "wrong"),
        ("GENERIC", frozenset({"avx2"}), "wrong"),
        ("ARM_NEON", frozenset({"asimd"}), "ok"),
        ("NONE", frozenset(), "unknown"),
    ],
)
def test_a_build_of_faiss_without_the_processors_instructions(level: str, flags: frozenset[str], verdict: Verdict) -> None:
    found = check_faiss(FaissBuild("1.15.1", level), flags)
    assert (found.verdict, bool(found.advice)) == (verdict, verdict != "ok")


@pytest.mark.parametrize(
    ("providers", "flags", "precision", "verdict"),
    [
        (CPU, MODERN, "int8", "ok"),
        (CPU, frozenset({"avx2"}), "int8", "warn"),
        (CPU, frozenset({"avx2", "avx_vnni"}), "int8", "ok"),
        (CPU, frozenset({"avx2"}), "fp32", "ok"),
        (["CUDAExecutionProvider"], MODERN, None, "wrong"),
    ],
)
def test_a_build_of_onnxruntime(providers: list[str], flags: frozenset[str], precision: str | None, verdict: Verdict) -> None:
    assert check_onnxruntime(providers, flags, precision).verdict == verdict


def test_libraries_older_than_those_that_made_the_snapshot_are_named() -> None:
    found = check_versions({"faiss-cpu": "1.15.1", "onnxruntime": "1.9.0", "python": "3.11"}, versions_here())
    assert found.verdict == "ok"
    found = check_versions({"faiss-cpu": "99.0.0", "onnxruntime": "1.9.0"}, {"faiss-cpu": "1.15.1", "onnxruntime": "1.10.0+x"})
    assert (found.verdict, "faiss-cpu" in found.advice, "onnxruntime" in found.advice) == ("warn", True, False)


def test_this_machine_is_read(tmp_path: Path) -> None:
    assert "CPUExecutionProvider" in providers_here()
    assert FaissBuild.here().level
    assert clock_synchronised() in (True, False, None)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n\nprocessor\t: 1\n")
    assert processor_flags(cpuinfo) == {"fpu", "avx2", "avx512f"}
    assert processor_flags(tmp_path / "none") == frozenset()


@pytest.mark.parametrize(
    ("synchronised", "ahead_seconds", "verdict"),
    [
        (True, None, "ok"),
        (True, -3600, "ok"),
        (True, 3, "warn"),
        (True, 61, "wrong"),
        (False, None, "warn"),
        (None, None, "warn"),
    ],
)
def test_the_clock(synchronised: bool | None, ahead_seconds: float | None, verdict: Verdict) -> None:
    newest = None if ahead_seconds is None else NOW + timedelta(seconds=ahead_seconds)
    assert check_clock(synchronised, NOW, newest).verdict == verdict


@pytest.mark.parametrize(
    ("skew", "verdict", "word"),
    [
        (0.4, "ok", "ahead"),
        (-2.9, "ok", "behind"),
        (-3.5, "warn", "behind"),
        (62.0, "wrong", "ahead"),
        (None, "unknown", "no time"),
    ],
)
def test_the_clock_of_another_machine(skew: float | None, verdict: Verdict, word: str) -> None:
    found = check_skew(skew, 1.0)
    assert (found.verdict, word in found.seen) == (verdict, True)
