"""The gate in a process of its own: a real one, on real snapshots, whole and broken; and one that dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from make_snapshot import make_oracle, make_snapshot, write_tower
from serving import Hooked

from service.apart import COMMAND, Apart, Word, word_json
from service.bounds import Bounds
from service.gate import Check, GateOptions
from service.generation import Generation, GenerationOptions, Step, open_generation
from service.inspection import Gatekeeper, Inspection
from service.niceness import NICER
from service.recent import RecentQueries
from service.spare import Spare
from snapshot.errors import EngineUnavailableError, GateDiedError, HashMismatchError, RefusedApartError
from snapshot.layout import Layout
from snapshot.signing import Trust

ORACLE = make_oracle()
QUERIES = [" ".join(text.split()[:2]) for text in ORACLE.texts[:40]]
LOADING = GenerationOptions(batching=False)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generation]:
    generation = open_generation(make_snapshot(tmp_path_factory.mktemp("served"), kind="hnsw"), LOADING, lambda step: None)
    yield generation
    generation.close()


def nothing() -> None:
    """Nobody wants anything else."""


def inspection(
    layout: Layout, serving: Generation | None, options: GateOptions, forced: bool = False, pace: Callable[[], None] = nothing
) -> Inspection:
    recent = RecentQueries(100, 1 << 20)
    for query in QUERIES:
        recent.note(query)

    @contextmanager
    def peer() -> Iterator[Generation | None]:
        yield serving

    return Gatekeeper(options, peer, recent).begin(layout.root.name, forced, "a reason", True, pace)


class Judged:
    """What came of one candidate."""

    def __init__(
        self,
        layout: Layout,
        serving: Generation | None = None,
        options: GateOptions | None = None,
        trust: Trust | None = None,
        command: Sequence[str] = COMMAND,
        **more: bool,
    ) -> None:
        options = options or GateOptions()
        self.steps: list[Step] = []
        self.inspection = inspection(layout, serving, options, **more)
        apart = Apart(options, LOADING, trust, command=command)
        self.verify = apart.judge(layout, self.inspection, self.steps.append)

    @property
    def checks(self) -> dict[str, Check]:
        return {check.name: check for check in self.inspection.report().checks}


def test_what_passes_there_is_opened_here_without_reading_it_all_again(tmp_path: Path, served: Generation) -> None:
    layout = make_snapshot(tmp_path, kind="hnsw")
    judged = Judged(layout, served)
    assert list(dict.fromkeys(judged.steps)) == ["verifying", "opening", "proving", "warming"]
    report = judged.inspection.report()
    assert (report.passed, report.against) == (True, served.id)
    assert judged.checks["overlap"].value == 1.0
    assert judged.checks["documents"].value == 1.0
    assert type(judged.checks["counts"].value) is int
    new = open_generation(layout, LOADING, lambda step: None, verify=judged.verify)
    assert new.proof.recall == 1.0
    new.close()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("damage", [Path.unlink, truncate])
@pytest.mark.parametrize("name", ["manifest.json", "index/index.faiss"])
def test_what_befell_the_files_of_what_serves_is_no_reason_to_refuse_another(
    tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    """Replaced, as a mapped file has to be: what serves goes on serving its own."""
    serving = open_generation(make_snapshot(tmp_path / "serving", kind="hnsw"), LOADING, lambda step: None)
    path = serving.layout.root / name
    shutil.copy(path, tmp_path / "other")
    (tmp_path / "other").replace(path)
    damage(path)
    judged = Judged(make_snapshot(tmp_path, kind="hnsw"), serving)
    assert judged.inspection.report().passed
    assert judged.checks["documents"].value == 1.0
    assert str(judged.checks["overlap"].detail).startswith(f"mean overlap@10 with {serving.id}")
    serving.close()


def unreachable(stage: str) -> None:
    raise EngineUnavailableError("http://milvus:19530: does not answer")


def test_what_serves_and_cannot_be_asked_is_no_reason_to_refuse_another(tmp_path: Path, served: Generation) -> None:
    """Its server is gone: to replace it is what an operator wants then."""
    broken = replace(served, engine=Hooked(served.engine, unreachable))
    judged = Judged(make_snapshot(tmp_path, kind="hnsw"), broken)
    assert judged.inspection.report().passed
    assert judged.checks["documents"].value == 1.0
    overlap = judged.checks["overlap"]
    assert (overlap.value, overlap.passed) == (None, True)
    assert overlap.detail == f"not applicable: {served.id} cannot be asked (http://milvus:19530: does not answer)"


def flip(layout: Layout) -> None:
    content = bytearray(layout.index.read_bytes())
    content[-1] ^= 1
    layout.index.write_bytes(content)


@pytest.mark.parametrize("content", [b"changed", None])
def test_what_changed_since_it_was_judged_is_refused(tmp_path: Path, served: Generation, content: bytes | None) -> None:
    layout = make_snapshot(tmp_path)
    judged = Judged(layout, served)
    if content is None:
        layout.manifest.write_bytes(layout.manifest.read_bytes() + b"\n")
    else:
        layout.index.write_bytes(content)
    with pytest.raises(HashMismatchError):
        judged.verify(layout.root)


def test_a_damaged_file_is_refused_by_its_name(tmp_path: Path, served: Generation) -> None:
    layout = make_snapshot(tmp_path)
    flip(layout)
    with pytest.raises(RefusedApartError, match=r"index\.faiss: sha256 .* was sealed") as refused:
        Judged(layout, served)
    assert refused.value.code == HashMismatchError.code


def test_a_file_whose_name_is_no_text_is_refused_by_its_name(tmp_path: Path, served: Generation) -> None:
    layout = make_snapshot(tmp_path)
    (layout.root / os.fsdecode(b"report-\xff.md")).write_bytes(b"x")
    with pytest.raises(RefusedApartError, match="not in the manifest") as caught:
        Judged(layout, served)
    assert caught.value.code == "file_extra"
    assert "report-\\udcff.md" in str(caught.value)


def test_another_space_is_refused_by_its_name(tmp_path: Path, served: Generation) -> None:
    layout = make_snapshot(tmp_path, tamper=lambda layout: write_tower(layout, ORACLE.table, "ab" * 32))
    with pytest.raises(RefusedApartError) as refused:
        Judged(layout, served)
    assert refused.value.code == "wrong_space"


def test_quality_is_refused_and_may_be_forced(tmp_path: Path, served: Generation) -> None:
    layout, options = make_snapshot(tmp_path), GateOptions(p99_ms=0.0001)
    with pytest.raises(RefusedApartError) as refused:
        Judged(layout, served, options)
    assert refused.value.code == "gate_p99"
    forced = Judged(layout, served, options, forced=True)
    assert forced.inspection.report().forced
    assert not forced.checks["p99"].passed


def test_unsigned_is_refused_where_signatures_are_required(tmp_path: Path, served: Generation) -> None:
    with pytest.raises(RefusedApartError) as refused:
        Judged(make_snapshot(tmp_path), served, trust=Trust((bytes(32),), required=True))
    assert refused.value.code == "signature_missing"


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (program("import os; os.kill(os.getpid(), 11)"), "was ended by SIGSEGV"),
        (program("import sys; sys.exit('no memory')"), "ended with exit code 1 and gave no verdict, saying: no memory"),
        (program("print('what is this')"), "gave no verdict"),
        (["/does/not/exist"], "cannot be started"),
    ],
)
def test_a_process_that_dies_is_a_refusal_with_a_reason(tmp_path: Path, command: list[str], said: str) -> None:
    with pytest.raises(GateDiedError, match=said):
        Judged(make_snapshot(tmp_path), command=command)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system cannot be told")
@pytest.mark.parametrize(
    ("text", "bounds", "said"),
    [
        ("while True: pass", Bounds(1, 600, 1 << 30), "was ended by SIGXCPU .more processor time"),
        ("import time; time.sleep(600)", Bounds(600, 0.2, 1 << 30), "gave no verdict in 0 s and was ended"),
        ("bytearray(1 << 31)", Bounds(600, 600, 1 << 30), "ended with exit code 1 and gave no verdict, saying: MemoryError"),
    ],
)
def test_a_process_that_takes_too_much_is_a_refusal_with_a_reason(tmp_path: Path, text: str, bounds: Bounds, said: str) -> None:
    layout = make_snapshot(tmp_path)
    there = f"resource.getrlimit(resource.RLIMIT_DATA)[0] == {bounds.data_bytes}"  # it begins when it may take no more
    waits = program(f"import resource, time\nwhile not {there}: pass\n{text}")
    apart = Apart(GateOptions(), LOADING, None, command=waits, bounds=lambda _: bounds)
    with pytest.raises(GateDiedError, match=said):
        apart.judge(layout, inspection(layout, None, GateOptions()), lambda step: None)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no such score")
def test_where_memory_runs_out_it_goes_before_the_service(tmp_path: Path) -> None:
    layout = make_snapshot(tmp_path)
    tells = program("while (score := open('/proc/self/oom_score_adj').read().strip()) != '1000': pass\nraise SystemExit(score)")
    with pytest.raises(GateDiedError, match="saying: 1000"):
        Judged(layout, command=tells)


def test_a_process_whose_verdict_is_not_wanted_any_more_is_ended(tmp_path: Path) -> None:
    layout, pid = make_snapshot(tmp_path), tmp_path / "pid"
    endless = program(f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)")

    class UnwantedError(Exception):
        pass

    def pace() -> None:
        if pid.is_file() and pid.read_text():
            raise UnwantedError

    apart = Apart(GateOptions(), LOADING, None, command=endless)
    entered: list[str] = []
    with pytest.raises(UnwantedError):
        apart.judge(layout, inspection(layout, None, GateOptions(), pace=pace), entered.append)
    assert entered == ["verifying"]  # said before the process has said anything
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing ties it to its parent")
def test_it_does_not_outlive_a_service_that_is_killed_while_it_is_stopped() -> None:
    """Its standard input stays open, so that nothing but the death of its parent ends it."""
    parent = subprocess.Popen(
        program("import subprocess, sys, time\n"
                "child = subprocess.Popen([sys.executable, '-m', 'service.examine'], stdin=subprocess.PIPE)\n"
                "print(child.pid, flush=True); time.sleep(600)"),
        stdout=subprocess.PIPE,
    )  # fmt: skip
    with parent:
        assert parent.stdout is not None
        child, nice = int(parent.stdout.readline()), os.getpriority(os.PRIO_PROCESS, 0)
        try:
            until(lambda: os.getpriority(os.PRIO_PROCESS, child) == min(19, nice + NICER))
            os.kill(child, signal.SIGSTOP)
        finally:
            parent.kill()
    try:
        until(lambda: not is_there(child))
    finally:
        if is_there(child):
            os.kill(child, signal.SIGKILL)


def is_there(pid: int) -> bool:
    """Not gone, and not waiting for its new parent to hear that it is."""
    try:
        return "Z (zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def until(condition: Callable[[], bool]) -> None:
    """Poll: what is waited for happens in another process."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_under_load_it_is_stopped_most_of_the_time(tmp_path: Path) -> None:
    """The other process counts how far it gets in half a second: about a tenth of what it would get to alone."""
    verdict = word_json().dump_json(Word(code="counted", reason="{}")).decode()
    counting = (
        "import time; end = time.monotonic() + 0.5; begun = time.thread_time()\n"
        "while time.monotonic() < end: pass\n"
        f"print({verdict!r}.replace('{{}}', str(time.thread_time() - begun)))"
    )

    class Busy(Spare):
        def share(self) -> float:
            return 0.1

    layout = make_snapshot(tmp_path)
    apart = Apart(GateOptions(), LOADING, None, Busy(), program(counting))
    with pytest.raises(RefusedApartError) as refused:
        apart.judge(layout, inspection(layout, None, GateOptions()), lambda step: None)
    assert json.loads(str(refused.value)) < 0.3
