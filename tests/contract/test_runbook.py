"""Every command of the runbook is run, by section, in the situation that the section is about, with what comes of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from make_snapshot import WORDS, make_snapshot
from object_stores import BUCKET, moto
from serving import OPERATOR, TOKEN, tokens_file

from offline.data.query_log import read_query_log
from service.progress import AT_REST
from service.tokens import parse_tokens
from snapshot.layout import Layout
from snapshot.registry import Registry

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
WAIT_SECONDS = 120
ROWS = 200
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("SCALINGNOTE_")}


@dataclass(frozen=True)
class Command:
    """A line of a shell block.

    Attributes:
        exit_code: that the page says it ends with.
    """

    text: str
    exit_code: int


def commands(section: str) -> list[Command]:
    blocks = "".join(re.findall(r"```sh\n(.*?)```", SECTIONS[section], re.DOTALL)).replace("\\\n", " ")
    found = []
    for line in filter(None, blocks.splitlines()):
        text, _, comment = line.partition("  # ")
        said = re.match(r"exit code (\d+)", comment)
        found.append(Command(text, int(said[1]) if said else 0))
    return found


class World:
    """A registry of its own in a folder, and a service that follows it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "registry"
        self.registry = Registry(self.root)
        tokens_file(folder)
        self.names: dict[str, str] = {}
        self.pid = self.port = 0
        self.more: dict[str, str] = {}  # variables of the scene
        self.settings: dict[str, str] = {}  # variables of its service

    def make(self, name: str, rows: int = ROWS, seed: int = 0, teacher: float | None = None) -> Layout:
        """Publish a snapshot, that the runbook calls ``name``."""
        layout = make_snapshot(self.root, rows=rows, kind="hnsw", seed=seed, teacher=teacher)
        self.names[name] = layout.root.name
        return layout

    def activate(self, name: str) -> None:
        self.registry.activate(self.names[name], "of the scene", who="tests")

    def run(self, command: Command) -> str:
        """Run a command as the page has it, but for its ids and the port; what it printed."""
        text = command.text.replace("localhost:8000", f"127.0.0.1:{self.port}").replace("BUCKET", BUCKET)
        for name, snapshot_id in self.names.items():
            text = re.sub(rf"\b{name}\b", snapshot_id, text)
        paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        environment = {**ENVIRONMENT, **paths, "TOKEN": TOKEN, "PID": str(self.pid), **self.more}
        ended = subprocess.run(
            ["bash", "-c", text],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
        assert ended.returncode == command.exit_code, f"{text}\n{ended.stdout}\n{ended.stderr}"
        assert "Traceback" not in ended.stderr, ended.stderr
        return ended.stdout

    def get(self, path: str) -> dict[str, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def until(self, condition: Callable[[dict[str, Any]], object], what: str) -> None:
        """Wait for the service's /info."""
        end = time.monotonic() + WAIT_SECONDS
        while not condition(info := self.get("/info")):
            assert time.monotonic() < end, f"waited in vain for {what}: {info['state']}, {info['last_error']}"
            time.sleep(0.05)

    def until_serving(self, name: str) -> None:
        self.until(lambda info: info["serving"] == self.names[name], f"{name} to serve")

    def until_refused(self, code: str) -> None:
        self.until(lambda info: (info["last_error"] or {}).get("code") == code, f"{code}")

    @contextmanager
    def serving(self, *prefix: str) -> Iterator[None]:
        """A service in a process of its own, on a port that the system chooses; its log is in ``folder``."""
        arguments = ["--registry", "registry", "--port", "0", "--log-format", "json", "--admin-tokens-file", "admin-tokens"]
        command = [*prefix, sys.executable, "-m", "service", *arguments, "--follow-interval-seconds", "0.1"]
        log, environment = self.folder / "log", {**ENVIRONMENT, "PYTHONPATH": str(ROOT), **self.settings}
        with log.open("w") as out:
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stderr=out)
        try:
            self.pid, self.port = process.pid, listening(log, process)
            yield
        finally:
            process.terminate()
            process.wait(WAIT_SECONDS)


def listening(log: Path, process: subprocess.Popen[bytes]) -> int:
    """The port that a service has told its log."""
    end = time.monotonic() + WAIT_SECONDS
    while not (found := re.search(r'"event": "listening".*?"url": "http://127.0.0.1:(\d+)"', log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    return int(found[1])


def two(world: World) -> None:
    """OTHER is served; ID is there."""
    world.make("OTHER", seed=1)
    world.make("ID", rows=ROWS + 20, seed=1)
    world.activate("OTHER")


def empty(world: World) -> None:
    """Nothing is activated."""
    world.make("ID")


def swapped(world: World) -> None:
    """ID is served, OTHER was before."""
    two(world)
    world.activate("ID")


def small(world: World) -> None:
    """ID has a tenth of the documents."""
    world.make("OTHER", seed=1)
    world.make("ID", rows=ROWS // 10, seed=1)
    world.activate("OTHER")


def watched(world: World) -> None:
    """ID is served, its teacher with it, and every search is looked at again."""
    world.make("ID", teacher=2.0)
    world.activate("ID")
    shares = {"LIVE_RECALL_SHARE": "1", "LIVE_TEACHER_SHARE": "1", "LIVE_WORST_QUERIES": "3", "LIVE_CPU_SHARE": "1"}
    world.settings = {f"SCALINGNOTE_{name}": value for name, value in shares.items()}


def asked(world: World) -> None:
    """Users have asked, and what they asked was looked at again."""
    world.until_serving("ID")
    for query in WORDS[:8]:
        body = json.dumps({"query": query}).encode()
        urllib.request.urlopen(f"http://127.0.0.1:{world.port}/search", body, timeout=10).close()
    end = time.monotonic() + WAIT_SECONDS
    while 'live_samples_total{outcome="compared",work="teacher"} 8.0' not in world.run(
        Command("curl -s localhost:8000/metrics", 0)
    ):
        assert time.monotonic() < end
        time.sleep(0.05)


def measured(world: World) -> None:
    shown = world.run(commands("Recall is low")[0])
    assert 'scalingnote_live_recall{bound="mean"}' in shown
    assert "scalingnote_expected_recall_sum" in shown


def kept(world: World) -> None:
    assert 'scalingnote_teacher_cosine{bound="high"}' in world.run(commands("Real queries drift away")[0])
    found = read_query_log(world.folder / "worst.jsonl")
    assert len(found) == 3
    assert set(found) <= set(WORDS[:8])


def damaged(world: World) -> None:
    """A bit of a file of ID is another one."""
    two(world)
    model = world.root / world.names["ID"] / "query_tower" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)


def damaged_at_start(world: World) -> None:
    """The same, wanted before the service starts, which then has nothing to serve."""
    damaged(world)
    world.activate("ID")


def refused(code: str) -> Callable[[World], None]:
    return lambda world: world.until_refused(code)


def wanted(code: str) -> Callable[[World], None]:
    """ID has been wanted since the service started, and refused."""

    def bring_about(world: World) -> None:
        world.until_serving("OTHER")
        world.activate("ID")
        world.until_refused(code)

    return bring_about


def stored(world: World) -> None:
    """OTHER is wanted in the object store, which is a real one."""
    world.until_serving("OTHER")
    world.run(Command("python -m snapshot push OTHER s3://BUCKET/PREFIX --activate --why 'of the scene'", 0))


def wanted_there(world: World) -> None:
    told = world.run(Command("python -m snapshot pull s3://BUCKET/PREFIX --registry registry --json", 0))
    assert world.names["ID"] in told


def nothing(world: World) -> None:
    """Nothing more comes about, or is to be seen."""


def serves(name: str) -> Callable[[World], None]:
    return lambda world: world.until_serving(name)


def forced(world: World) -> None:
    world.until_serving("ID")
    assert world.get(f"/snapshots/{world.names['ID']}/gate")["forced"]
    declared = [event for event in world.registry.history() if event.forced]
    assert [(event.who, event.why) for event in declared][1:] == [(OPERATOR, "another corpus on purpose")]


def doctored(world: World) -> None:
    from_outside, from_inside, other, *_ = (world.run(command) for command in commands("First"))
    assert re.search(r"^wrong: converged: hash_mismatch: .*model\.onnx", from_outside, re.MULTILINE)
    assert re.search(r"^│ wrong +│ snapshot: hashes +│ .*model\.onnx", from_inside, re.MULTILINE)
    found = {each["check"]: each["verdict"] for each in json.loads((world.folder / "doctor.json").read_text())["findings"]}
    assert (other, found["snapshot: hashes"], found["snapshot: golden_vectors"]) == ("", "ok", "ok")


def other_desired(world: World) -> None:
    assert world.registry.current() == world.names["OTHER"]
    world.until_serving("OTHER")


def with_alice(world: World) -> None:
    """Beside the operator of every scene."""
    world.until_serving("OTHER")
    tokens_file(world.folder, **{OPERATOR: TOKEN, "alice": "of old"})


def replaced(world: World) -> None:
    """alice has another token than before; who was there is there."""
    path = world.folder / "admin-tokens"
    alice, ours = sorted(parse_tokens(path.read_text(), path), key=lambda token: token.name != "alice")
    assert (alice.name, ours.name) == ("alice", OPERATOR)
    assert alice.digest != sha256(b"of old").digest()
    assert world.get("/snapshots")["desired"] == world.names["OTHER"]


def cleaned(world: World) -> None:
    assert {world.names["OTHER"], world.names["ID"]} <= set(world.registry.ids())


STORE = "A snapshot does not arrive from the object store"
Scene = tuple[Callable[[World], None], Callable[[World], None], Callable[[World], None]]
SCENES: dict[str, Scene] = {
    "First": (damaged_at_start, refused("hash_mismatch"), doctored),
    "A new snapshot is to be served": (two, serves("OTHER"), serves("ID")),
    "`/readyz` answers 503": (empty, nothing, nothing),
    "The desired snapshot is not the one that serves": (small, wanted("gate_documents"), other_desired),
    "A refused snapshot has to be served all the same": (small, wanted("gate_documents"), forced),
    "Files of a snapshot are damaged": (damaged, wanted("hash_mismatch"), other_desired),
    "Answers are worse since the last swap": (swapped, serves("ID"), other_desired),
    "Recall is low": (watched, asked, measured),
    "Real queries drift away": (watched, asked, kept),
    "A swap does not end": (swapped, serves("ID"), other_desired),
    "It does not fit into the memory": (two, serves("OTHER"), nothing),
    "Signatures": (two, serves("OTHER"), nothing),
    "The disk is full": (two, serves("OTHER"), cleaned),
    "Operators' routes answer 401, 404 or 503": (two, with_alice, replaced),
    STORE: (two, stored, wanted_there),
    "Before and after a deployment": (two, serves("OTHER"), nothing),
}
"""What is there before the service starts, what comes about once it runs, and what is to be seen after the commands."""


def test_every_section_with_commands_has_its_scene() -> None:
    assert {section for section in SECTIONS if commands(section)} == set(SCENES)


@pytest.mark.parametrize("section", SCENES)
def test_the_commands_of_a_section_do_what_it_says(section: str, tmp_path: Path) -> None:
    before, bring_about, see = SCENES[section]
    world = World(tmp_path)
    before(world)
    with ExitStack() as running:
        if section == STORE:
            world.more = running.enter_context(moto()).variables()
        running.enter_context(world.serving())
        bring_about(world)
        for command in commands(section):
            world.until(lambda info: info["state"] in AT_REST, "an operator who waits for what was asked for before")
            printed = world.run(command)
            if command.text.startswith("curl") and before is not empty:
                assert "urn:scalingnote:problem" not in printed, printed
        see(world)


def test_on_a_read_only_mount_the_service_follows_and_says_where_to_activate(tmp_path: Path) -> None:
    """A real mount, in a namespace of the service's own; the registry can be written outside of it."""
    readonly = ["unshare", "--mount", "sh", "-c", 'mount --bind -o ro registry registry && exec "$@"', "sh"]
    probe = subprocess.run(
        ["unshare", "--mount", "mount", "--bind", "-o", "ro", tmp_path, tmp_path], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"no mount can be made here: {probe.stderr.decode().strip()}")
    world = World(tmp_path)
    two(world)
    with world.serving(*readonly):
        world.until_serving("OTHER")
        activate = next(command for command in commands("A new snapshot is to be served") if "/activate" in command.text)
        problem = json.loads(world.run(activate))
        assert (problem["status"], problem["code"]) == (409, "registry_read_only")
        told = re.search(r"run: (python -m snapshot activate \S+)", problem["detail"])
        assert told is not None
        world.run(Command(f"{told[1]} --registry registry --why 'from where it can be written'", 0))
        world.until_serving("ID")


def test_the_answers_of_wrong_tokens_are_those_of_the_page(tmp_path: Path) -> None:
    world = World(tmp_path)
    two(world)
    listed = dict(re.findall(r"^\| (\d+) \| `(\w+)`", SECTIONS["Operators' routes answer 401, 404 or 503"], re.MULTILINE))
    (tmp_path / "admin-tokens").write_text("")
    with world.serving():
        for content, status in (("", "404"), ("bob:sha256:" + 64 * "0", "401"), ("bob", "503")):
            (tmp_path / "admin-tokens").write_text(content)
            with pytest.raises(urllib.error.HTTPError) as caught:
                world.get("/snapshots")
            with caught.value:
                assert (str(caught.value.code), json.load(caught.value)["code"]) == (status, listed[status])
