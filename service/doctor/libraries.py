"""What the builds of FAISS and ONNX Runtime can do on this processor, and the clock."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import faiss
import onnxruntime as ort

from service.doctor.findings import Finding, Verdict

_CPUINFO = Path("/proc/cpuinfo")
_PROVIDER = "CPUExecutionProvider"
_UNSYNCHRONISED = 0x0040
"""STA_UNSYNC of adjtimex(2)."""
_SKEW_SECONDS, _MOST_SKEW_SECONDS = 2.0, 60.0
_LIBRARIES = {"faiss-cpu": "faiss-cpu", "onnxruntime": "onnxruntime", "tokenizers": "tokenizers"}


@dataclass(frozen=True, slots=True)
class FaissBuild:
    """The vector instructions that FAISS uses here: a level's name such as NONE, AVX2 or AVX512."""

    version: str
    level: str

    @classmethod
    def here(cls) -> FaissBuild:
        """Asked of the library; before 1.13, read off the module that its loader has chosen."""
        config = getattr(faiss, "SIMDConfig", None)
        if config is not None:
            return cls(faiss.__version__, str(config.get_level_name()))
        loaded = [name.removeprefix("faiss.swigfaiss_") for name in sys.modules if name.startswith("faiss.swigfaiss_")]
        return cls(faiss.__version__, loaded[0].upper() if loaded else "NONE")


def processor_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """What the processor says that it can do, as Linux names it; empty where that is not told."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    return frozenset() if found is None else frozenset(found[1].split())


def check_faiss(build: FaissBuild, flags: frozenset[str]) -> Finding:
    """Whether FAISS uses the vector instructions that the processor has."""
    seen, able = f"{build.version}, level {build.level}", [name for name in ("avx2", "avx512f", "asimd", "sve") if name in flags]
    expected = f"vector instructions of the processor ({', '.join(able) or 'not told'})"
    generic = build.level.upper() in ("NONE", "GENERIC")
    verdict: Verdict = "wrong" if generic and able else "ok" if able else "unknown"
    advice = (
        "searches take several times as long: install the wheel of PyPI (pip install --force-reinstall faiss-cpu), and unset "
        "FAISS_OPT_LEVEL and FAISS_SIMD_LEVEL"
        if generic
        else "no processor flags to compare with on this system: compare the stages' latency with the snapshot's"
    )
    return Finding.of("faiss", verdict, seen, expected, advice)


def check_onnxruntime(providers: Sequence[str], flags: frozenset[str], precision: str | None) -> Finding:
    """Whether ONNX Runtime has its CPU provider, and the processor what an int8 graph is fast by.

    Args:
        providers: those of the build.
        flags: of the processor.
        precision: of the snapshot's query tower; None where none is known.
    """
    seen = f"{ort.__version__}, {', '.join(providers)}; query tower {precision or 'unknown'}"
    expected = f"{_PROVIDER}; for int8 a processor with VNNI"
    if _PROVIDER not in providers:
        advice = "this build cannot run the query tower: pip install --force-reinstall onnxruntime"
        return Finding("onnxruntime", "wrong", seen, expected, advice)
    slow = precision == "int8" and "avx2" in flags and not flags & {"avx512_vnni", "avx_vnni"}
    advice = "int8 gains little here: compare with an fp32 export (--set export.precision=fp32), or use newer processors"
    return Finding.of("onnxruntime", "warn" if slow else "ok", seen, expected, advice)


def providers_here() -> list[str]:
    """Those of the installed build."""
    return list(ort.get_available_providers())


def check_versions(build: Mapping[str, str], here: Mapping[str, str]) -> Finding:
    """Whether the libraries are at least as new as those that made the snapshot."""
    both = [name for name in here if name in build]
    older = [name for name in both if _numbers(here[name]) < _numbers(build[name])]
    seen = ", ".join(f"{name} {here[name]} (made with {build[name]})" for name in both) or "the snapshot names none"
    advice = f"upgrade {', '.join(older)}: older libraries may not read what newer ones wrote, or compute otherwise"
    return Finding.of("versions", "warn" if older else "ok", seen, "no older than what made the snapshot", advice)


def versions_here() -> dict[str, str]:
    """Of the libraries that a search goes through."""
    return {name: version(package) for name, package in _LIBRARIES.items()}


def check_clock(synchronised: bool | None, now: datetime, newest: datetime | None) -> Finding:
    """Whether the clock is kept right, as far as the machine can tell.

    Args:
        synchronised: what the kernel says; None where it says nothing.
        now: by this clock.
        newest: when the newest snapshot was made, by the clock of its builder.
    """
    told = {True: "synchronised", False: "not synchronised", None: "the kernel does not say whether it is synchronised"}
    ahead = 0.0 if newest is None else (newest - now).total_seconds()
    seen = told[synchronised] + (f"; a snapshot was made {ahead:.0f} s in the future" if ahead > _SKEW_SECONDS else "")
    verdict: Verdict = "wrong" if ahead > _MOST_SKEW_SECONDS else "warn" if ahead > _SKEW_SECONDS or not synchronised else "ok"
    advice = "run chronyd or systemd-timesyncd on the host; ages, alerts and the order of snapshots go by the clock"
    return Finding.of("clock", verdict, seen, f"synchronised, no snapshot more than {_SKEW_SECONDS:g} s ahead", advice)


def check_skew(skew_seconds: float | None, uncertain_seconds: float) -> Finding:
    """Whether another machine's clock is ours; ``skew_seconds`` is positive where it is ahead, None where it told no time."""
    expected = f"within {_SKEW_SECONDS:g} s of this machine's"
    if skew_seconds is None:
        advice = "the answer has no Date header: something between rewrites answers"
        return Finding("clock", "unknown", "no time was told", expected, advice)
    off = max(0.0, abs(skew_seconds) - uncertain_seconds)
    seen = f"{abs(skew_seconds):.1f} s {'ahead of' if skew_seconds > 0 else 'behind'} this machine's, ± {uncertain_seconds:.1f} s"
    verdict: Verdict = "wrong" if off > _MOST_SKEW_SECONDS else "warn" if off > _SKEW_SECONDS else "ok"
    advice = "one of both clocks is wrong: run chronyd or systemd-timesyncd on both; ages, alerts and logs go by them"
    return Finding.of("clock", verdict, seen, expected, advice)


class _Timex(ctypes.Structure):
    """The begin of struct timex as 64-bit Linux has it, with room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def clock_synchronised() -> bool | None:
    """What the kernel says of its clock; None where it cannot be asked."""
    if sys.platform != "linux":
        return None
    asked = _Timex()
    adjtimex = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)
    if adjtimex is None or adjtimex(ctypes.byref(asked)) < 0:
        return None
    return not asked.status & _UNSYNCHRONISED


def _numbers(text: str) -> tuple[int, ...]:
    """Leading numbers of a version: 1.15.1 of 1.15.1+cpu."""
    return tuple(map(int, re.findall(r"\d+", text.split("+")[0])[:3]))
