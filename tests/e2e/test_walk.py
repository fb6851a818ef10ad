"""The whole walk as a user takes it: commands, the first ones in processes of their own, from text files to hits over HTTP."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import pairwise

import httpx
import pytest
from in_process import run
from make_snapshot import make_oracle
from tiny_models import make_tiny_bert

pytestmark = pytest.mark.slow

ROWS = 60
KINDS = ("book", "tool", "toy")
DEADLINE_SECONDS = 300
TEXTS = make_oracle(ROWS).texts
RECIPE = """
name = "tiny"
[text]
query = {{ max_tokens = 16 }}
document = {{ max_tokens = 24 }}
[train]
backbone = "{backbone}"
epochs = 20
batch_size = 8
save_steps = 2
[distill]
layers = [0]
epochs = 2
batch_size = 16
max_texts = 100
[export]
precision = "fp32"
[encode]
shard_rows = 16
[index]
kind = "hnsw"
probe_queries = 10
[evaluate]
bootstrap = 50
[pack]
golden_queries = 8
"""


ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def typed(*arguments):
    """A command in a process of its own, to its end."""
    command, environment = [sys.executable, "-m", *map(str, arguments)], {**os.environ, **ENVIRONMENT}
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done


def call(*arguments, check=True):
    """A command in this process, where torch, which takes seconds to import, is there."""
    done = run(*map(str, arguments), **ENVIRONMENT)
    assert not check or done.returncode == 0, done.stderr
    return done


def until(condition, what):
    """Poll: what is waited for happens in another process."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)
    return found


class Place:
    """Folders of one walk."""

    def __init__(self, root):
        self.root = root
        self.registry = root / "registry"
        self.work = root / "work"
        self.recipe = root / "tiny.toml"
        self.arguments = ("--data", write_data(root / "data"), "--out", self.work, "--registry", self.registry)
        self.recipe.write_text(RECIPE.format(backbone=make_tiny_bert(root / "backbone")))

    def command(self, name="run"):
        return ("offline", name, self.recipe, *self.arguments)

    def snapshot(self, command, *arguments):
        return call("snapshot", command, *arguments, "--registry", self.registry)

    @property
    def current(self):
        return (self.registry / "CURRENT").read_text().strip()


def write_data(folder):
    """Sixty documents of six words; a query is the first three of them, in train, dev and test by turns."""
    (folder / "qrels").mkdir(parents=True)
    documents = [
        {"_id": f"d{row}", "title": text.split()[0], "text": text, "metadata": {"kind": KINDS[row % 3], "number": row}}
        for row, text in enumerate(TEXTS)
    ]
    queries = [{"_id": f"q{row}", "text": " ".join(text.split()[1:4])} for row, text in enumerate(TEXTS)]
    write_lines(folder / "corpus.jsonl", map(json.dumps, documents))
    write_lines(folder / "queries.jsonl", map(json.dumps, queries))
    for place, split in enumerate(("train", "dev", "test")):
        lines = [f"q{row}\td{row}\t1" for row in range(place, ROWS, 3)]
        write_lines(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])
    return folder


def write_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("walk"))


@pytest.fixture(scope="module")
def killed(place):
    """A run that was killed while it trained, after its first checkpoint."""
    command = [sys.executable, "-m", *place.command()]
    with (place.root / "killed.log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: process.poll() is not None or list(place.work.glob("train/checkpoints/*/complete")), "a checkpoint")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process


@pytest.fixture(scope="module")
def first(place, killed):
    """The same command again: it goes on, and publishes."""
    return typed(*place.command())


@pytest.fixture(scope="module")
def changed(place, first):
    """A run with another index, whose snapshot is published and not activated."""
    return call(*place.command(), "--set", "index.kind=flat", "--set", "publish.activate=false")


@pytest.fixture(scope="module")
def second(place, changed):
    """Id of that snapshot."""
    listed = json.loads(place.snapshot("list", "--json").stdout)
    return next(row["id"] for row in listed["snapshots"] if row["index"] == "flat")


@contextmanager
def serving(place):
    """The service in a process of its own, on a port that the system chooses."""
    log = place.root / "service.log"
    command = [sys.executable, "-m", "service", "--registry", place.registry, "--port", "0", "--log-format", "json"]
    with log.open("wb") as out:
        process = subprocess.Popen(list(map(str, command)), stderr=out)
    try:
        with httpx.Client(base_url=until(lambda: url_in(log), "the service to listen"), trust_env=False) as client:
            until(lambda: client.get("/readyz").is_success, "the service to be ready")
            yield process, client
    finally:
        process.kill()
        process.wait()


def url_in(log):
    events = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return next((event["url"] for event in events if event["event"] == "listening"), None)


@pytest.fixture(scope="module")
def service(place, first):
    with serving(place) as (_, client):
        yield client


def search(client, **body):
    response = client.post("/search", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_killed_run_goes_on(place, killed, first):
    assert killed.returncode == -signal.SIGKILL
    assert "prepare" in first.stderr
    assert "kept, its receipt fits" in first.stderr
    assert f"Published {place.current}" in first.stderr


def test_another_recipe_repeats_only_what_depends_on_it(changed):
    lines = changed.stderr.splitlines()
    kept = [before.split()[1] for before, line in pairwise(lines) if "kept, its receipt fits" in line]
    assert kept == ["prepare:", "train:", "distill:", "encode:", "refine:", "export:"]


def test_the_report_travels_with_the_snapshot(place, first):
    report = place.registry / place.current / "report"
    assert {path.name for path in report.iterdir()} >= {"report.md", "report.json", "export.json", "quality.png"}
    manifest = json.loads((place.registry / place.current / "manifest.json").read_text())
    assert manifest["retention"] == json.loads((report / "report.json").read_text())["retention"]


def test_a_search_returns_documents(place, service):
    found = search(service, query=TEXTS[7], k=5)
    assert found["snapshot"] == place.current
    assert found["degraded"] is None
    scores = [hit["score"] for hit in found["hits"]]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    rows = [int(hit["id"].removeprefix("d")) for hit in found["hits"]]
    assert [hit["fields"]["text"] for hit in found["hits"]] == [TEXTS[row] for row in rows]
    assert [hit["id"] for hit in search(service, query=TEXTS[7], k=5, exact=True)["hits"]] == [hit["id"] for hit in found["hits"]]


def test_a_filter_is_obeyed_and_filled(service):
    found = search(service, query="apple", k=4, filter={"kind": "tool", "number": {"$gte": 48}})
    assert sorted(hit["fields"]["number"] for hit in found["hits"]) == [49, 52, 55, 58]


def test_evaluate_asks_the_service(place, service):
    asked = typed(*place.command("evaluate"), "--service", str(service.base_url))
    assert "as served over HTTP" in asked.stdout + asked.stderr


def test_the_service_follows_activation_and_rollback(place, service, second):
    before = place.current
    place.snapshot("activate", second, "--why", "a better student")
    until(lambda: search(service, query="apple")["snapshot"] == second, "the second snapshot")
    place.snapshot("rollback")
    until(lambda: search(service, query="apple")["snapshot"] == before, "the first snapshot again")
    events = json.loads(place.snapshot("history", "--json").stdout)
    switches = [event for event in events if event["action"] in {"activate", "rollback"}]
    assert [event["snapshot"] for event in switches][-2:] == [second, before]


@pytest.fixture(scope="module")
def later(place, second):
    """The data of another day: a document is new, one rewritten, one gone."""
    folder = shutil.copytree(place.root / "data", place.root / "later")
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    lines[3] = json.dumps({**json.loads(lines[3]), "text": "rewritten since"})
    fresh = {"_id": "fresh", "title": "fresh", "text": "a fresh document", "metadata": {"kind": "toy", "number": 100}}
    write_lines(folder / "corpus.jsonl", [*lines[:59], json.dumps(fresh)])
    return ("--data", folder, "--out", place.work, "--registry", place.registry)


def test_a_day_later_only_changes_are_encoded(place, later):
    parent = place.current
    done = call("offline", "run", place.recipe, *later, "--since", "CURRENT")
    assert f"1 new, 1 changed, 58 carried over, 1 dropped since {parent} (2 encoded)" in done.stderr.splitlines()[-1]
    assert json.loads(place.snapshot("show", place.current, "--json").stdout)["parent"] == parent
    with serving(place) as (_, client):
        found = search(client, query="a fresh document", k=60, exact=True)
        assert {"fresh", "d3"} < {hit["id"] for hit in found["hits"]}
        assert "d59" not in {hit["id"] for hit in found["hits"]}
    again = call("offline", "run", place.recipe, *later, "--since", "CURRENT")
    assert f"Nothing changed since {place.current}" in again.stderr.splitlines()[-1]


def test_a_new_student_reuses_the_index(place, later):
    parent = place.current
    call(*place.command("distill"), "--set", "distill.layers=[2]")
    call(*place.command("pack"), "--set", "distill.layers=[2]", "--reuse-index", "CURRENT")
    call(*place.command("publish"))
    manifest = json.loads((place.registry / place.current / "manifest.json").read_text())
    assert (manifest["parent"], manifest["query_tower"]["layers"]) == (parent, 1)
    index = [place.registry / snapshot / "index" / "index.faiss" for snapshot in (parent, place.current)]
    assert index[0].stat().st_ino == index[1].stat().st_ino
    with serving(place) as (_, client):
        assert search(client, query="a fresh document")["snapshot"] == place.current


def test_a_parent_that_is_not_there_is_refused_in_a_line(place, later):
    done = call("offline", "run", place.recipe, *later, "--since", "20200101T000000Z-00000000", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --since 20200101T000000Z-00000000: neither a folder nor a snapshot")


def test_sigterm_drains(place, first):
    with serving(place) as (process, client):
        search(client, query="apple")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
