"""``python -m snapshot`` as an operator types it."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from in_process import run
from make_snapshot import make_snapshot

from snapshot import cli_trust
from snapshot.__main__ import main
from snapshot.documents import open_table, write_documents
from snapshot.errors import GateDiedError, LibraryMissingError, RefusedApartError, SnapshotError
from snapshot.layout import Layout
from snapshot.leases import hold
from snapshot.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "registry")
    for seed in (0, 1):
        registry.publish(make_snapshot(tmp_path / "made", rows=20, seed=seed).root)
    return registry


def snapshot(registry: Registry, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("snapshot", *arguments, "--registry", str(registry.root), **environment)


def typed(registry: Registry, *arguments: str) -> str:
    """What a process of its own prints, which an operator starts."""
    command = [sys.executable, "-m", "snapshot", *arguments, "--registry", str(registry.root)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def as_json(registry: Registry, *arguments: str) -> Any:
    done = snapshot(registry, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_list_activate_rollback(registry: Registry) -> None:
    a, b = registry.ids()
    assert "nothing is desired" in typed(registry, "list")
    assert f"{a} is desired now" in typed(registry, "activate", a, "--why", "first")
    assert as_json(registry, "activate", b) == {"desired": b, "forced": False}
    listing = as_json(registry, "list")
    assert listing["desired"] == b
    assert {row["id"]: row["desired"] for row in listing["snapshots"]} == {a: False, b: True}
    assert f"{a} is desired again" in typed(registry, "rollback")
    assert as_json(registry, "activate", b)["desired"] == b
    assert as_json(registry, "rollback", "--why", "worse") == {"desired": a, "forced": False}
    events = as_json(registry, "history")
    assert [event["action"] for event in events][-3:] == ["rollback", "activate", "rollback"]
    assert (events[-1]["why"], events[-1]["previous"], events[-1]["snapshot"]) == ("worse", b, a)
    assert all(event["took_effect"] for event in events)


def test_a_forced_activation_needs_a_reason_which_is_kept(registry: Registry) -> None:
    a, _ = registry.ids()
    refused = snapshot(registry, "activate", a, "--force", "--json")
    assert refused.returncode == 2
    assert json.loads(refused.stdout)["error"]["code"] == "reason_missing"
    assert "--why" in refused.stderr
    assert as_json(registry, "activate", a, "--force", "--why", "known to be slow")["forced"]
    assert "activate, forced" in snapshot(registry, "history").stdout
    registry.record_outcome(a, "served", "in 1 s", "service on node-1")
    shown = snapshot(registry, "history").stdout
    assert "service on node-1" in shown
    assert "served" in shown


def test_the_list_is_a_table_of_what_operators_ask_for(registry: Registry) -> None:
    a, b = registry.ids()
    registry.activate(a, "")
    registry.pin(b)
    for serving in (a, b):
        registry.record_outcome(serving, "served", "in 1 s", "service on node-1")
    with hold(registry.layout(a).root), hold(registry.layout(b).root):
        rows = {row["id"]: row for row in as_json(registry, "list")["snapshots"]}
        lines = snapshot(registry, "list", COLUMNS="80").stdout.splitlines()
    (row_a,) = (line for line in lines if a in line and "│" in line)
    (row_b,) = (line for line in lines if b in line and "│" in line)
    (head,) = (line for line in lines if "documents" in line)
    for heading in ("id", "age", "documents", "space", "size", "retention", "desired", "serving"):
        assert heading in head
    cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in (row_a, row_b)]
    assert cells[0][0] == "*"
    assert cells[1][0] == "p"
    assert (cells[0][-2:], cells[1][-2:]) == (["yes", "open"], ["", "yes"])
    assert "open: a service keeps it open" in lines[-1]
    told = ("desired", "open", "serving", "pinned")
    assert [rows[a][name] for name in told] == [True, True, False, False]
    assert [rows[b][name] for name in told] == [False, True, True, True]
    assert rows[a]["documents"] == 20
    assert rows[a]["space"] == "0" * 64
    sizes = [path.stat().st_size for path in registry.layout(a).root.rglob("*") if path.is_file()]
    assert rows[a]["bytes"] == sum(sizes) - registry.layout(a).manifest.stat().st_size
    assert 0 <= rows[a]["age_seconds"] < 600


def test_show_and_verify(registry: Registry) -> None:
    snapshot_id = registry.ids()[0]
    assert as_json(registry, "show", snapshot_id)["documents"]["count"] == 20
    shown = snapshot(registry, "show", snapshot_id).stdout
    for part in ("effort table", "recall@10", "retention", "not measured", "filterable"):
        assert part in shown
    assert "intact" in snapshot(registry, "verify", snapshot_id).stdout
    assert as_json(registry, "verify", snapshot_id)["signature"] == "none"
    registry.layout(snapshot_id).index.write_bytes(b"")
    damaged = snapshot(registry, "verify", snapshot_id)
    assert damaged.returncode == 2
    assert damaged.stderr.startswith("error: ")
    assert "index.faiss: 0 bytes" in damaged.stderr


def test_keys_sign_and_are_asked_for(registry: Registry, tmp_path: Path) -> None:
    a, b = registry.ids()
    key = tmp_path / "key"
    made = run("snapshot", "keygen", str(key))
    assert f"{key}.pub" in made.stdout
    assert key.stat().st_mode & 0o777 == 0o600
    again = run("snapshot", "keygen", str(key))
    assert again.returncode == 2
    assert "never overwritten" in again.stderr
    signed = as_json(registry, "sign", a, "--key", str(key))
    assert signed["id"] == a
    assert as_json(registry, "verify", a, "--key", f"{key}.pub")["signature"] == "trusted"
    refused = snapshot(registry, "verify", b, "--key", f"{key}.pub", "--json")
    assert refused.returncode == 2
    assert json.loads(refused.stdout)["error"]["code"] == "signature_missing"
    assert [row["signed"] for row in as_json(registry, "list")["snapshots"]] == [True, False]
    registry.layout(b).model.write_bytes(b"")
    assert "model.onnx: 0 bytes" in snapshot(registry, "sign", b, "--key", str(key)).stderr


def test_pins_and_gc(registry: Registry, tmp_path: Path) -> None:
    a, b = registry.ids()
    c = registry.publish(make_snapshot(tmp_path / "made", rows=20, seed=2).root).id
    assert "is pinned" in snapshot(registry, "pin", a, "--why", "the last good one").stdout
    planned = as_json(registry, "gc", "--keep", "1", "--dry-run")
    assert planned["removed"] == [b]
    assert planned["kept"] == {a: ["pinned"], c: ["latest"]}
    assert registry.ids() == [a, b, c]
    assert "1 would be removed" in snapshot(registry, "gc", "--keep", "1", "--dry-run").stdout
    assert "1 removed" in snapshot(registry, "gc", "--keep", "1").stdout
    assert as_json(registry, "unpin", a) == {"pins": []}
    assert as_json(registry, "gc", "--keep", "1")["removed"] == [a]
    assert registry.ids() == [c]
    assert "no snapshot" in snapshot(registry, "pin", a).stderr
    assert snapshot(registry, "gc").returncode == 2


def test_diff(registry: Registry) -> None:
    a, b = registry.ids()
    found = as_json(registry, "diff", a, b)
    assert found["documents"]["changed"] == 20
    assert found["same"]["space"] is False
    shown = snapshot(registry, "diff", a, b).stdout
    assert "0 added, 0 removed, 20 changed" in shown
    assert "overlap@5" in shown


def test_looking_works_where_current_is_garbage(registry: Registry) -> None:
    (registry.root / "CURRENT").write_bytes(b"\xff" * 1_000_000)
    listing = as_json(registry, "list")
    assert listing["desired"] is None
    assert "CURRENT: cannot be read" in listing["desired_error"]
    assert "CURRENT: cannot be read" in snapshot(registry, "list").stdout
    assert snapshot(registry, "gc", "--keep", "1").returncode == 2
    assert len(registry.ids()) == 2
    assert snapshot(registry, "activate", registry.ids()[0]).returncode == 0


@pytest.mark.parametrize("pins", [b"\xff", b"x" * (2 << 20)])
def test_looking_works_where_pins_are_garbage(registry: Registry, pins: bytes) -> None:
    a, b = registry.ids()
    (registry.root / "PINS").write_bytes(pins)
    listing = as_json(registry, "list")
    assert [one["id"] for one in listing["snapshots"]] == [a, b]
    assert "PINS: cannot be read" in listing["pins_error"]
    assert "what is pinned cannot be told" in snapshot(registry, "list").stdout
    assert as_json(registry, "show", a)["pins_error"] == listing["pins_error"]
    assert "what is pinned cannot be told" in snapshot(registry, "show", a).stdout
    assert snapshot(registry, "gc", "--keep", "0").returncode == 2  # which must know


def test_what_gc_removes_meanwhile_is_not_listed(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = registry.ids()

    def is_held(folder: Path) -> bool:
        if folder.name == a:
            shutil.rmtree(folder)
        return False

    monkeypatch.setattr("snapshot.cli_look.is_held", is_held)
    assert run_here(registry, monkeypatch, "list", "--json") == 0
    listing = json.loads(capsys.readouterr().out)
    assert ([one["id"] for one in listing["snapshots"]], listing["unreadable"]) == ([b], {})


def with_control_characters(layout: Layout) -> None:
    table = open_table(layout.documents)
    ids = ["\x1b]0;pwn\x07\x1b[2J", *table.column("id").to_pylist()[1:]]
    write_documents(table.set_column(0, "id", pa.array(ids, pa.string())), layout.documents)


def test_ids_of_documents_do_not_reach_the_terminal(registry: Registry, tmp_path: Path) -> None:
    other = registry.publish(make_snapshot(tmp_path / "evil", rows=20, tamper=with_control_characters).root).id
    done = snapshot(registry, "diff", registry.ids()[0], other)
    assert done.returncode == 0, done.stderr
    assert "pwn" in done.stdout
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout


def test_what_others_wrote_does_not_reach_the_terminal(registry: Registry) -> None:
    registry.activate(registry.ids()[0], "\x1b[2J[red]why[/red]\r", who="\x1b]0;title\x07")
    shown = snapshot(registry, "history").stdout
    assert "\x1b" not in shown
    assert "[red]why[/red]" in shown


def test_an_unknown_id_and_an_empty_registry_say_what_to_do(registry: Registry, tmp_path: Path) -> None:
    unknown = snapshot(registry, "activate", "nope")
    assert unknown.returncode == 2
    see = f"python -m snapshot list --registry {registry.root}"
    assert f"no snapshot 'nope'; the latest of 2: {', '.join(reversed(registry.ids()))}; see: {see}" in unknown.stderr
    (tmp_path / "empty").mkdir()
    assert "python -m offline run" in snapshot(Registry(tmp_path / "empty"), "list").stdout


def test_deep_runs_the_gate_of_the_service(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the two fit is tested where the gate is; here, what is run and what becomes of its answer."""
    asked: list[list[str]] = []

    def fake(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, b'{"passed": false}')

    monkeypatch.setattr(cli_trust.subprocess, "run", fake)
    assert cli_trust._gate("id", registry.root, "other", [], as_json=True) == (1, {"passed": False})
    expected = [sys.executable, "-m", "service", "gate", "id", "--registry", str(registry.root), "--against", "other", "--json"]
    assert asked == [expected]


@pytest.mark.parametrize(
    ("code", "output", "error", "message"),
    [
        (2, b'{"error": {"code": "snapshot_unknown", "message": "no snapshot"}}', RefusedApartError, "no snapshot"),
        (1, b"", GateDiedError, r"the gate gave no report \(exit code 1\)"),
        (-9, b"{", GateDiedError, r"the gate gave no report \(exit code -9\)"),
    ],
)
def test_deep_without_a_report_is_an_error(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, code: int, output: bytes, error: type[SnapshotError], message: str
) -> None:
    monkeypatch.setattr(cli_trust.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, code, output))
    with pytest.raises(error, match=message):
        cli_trust._gate("id", registry.root, "nothere", [], as_json=True)
    assert cli_trust._gate("id", registry.root, "nothere", [], as_json=False) == (1 if code == 1 else 2, None)


def test_deep_says_what_is_missing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_trust, "find_spec", lambda name: None if name == "onnxruntime" else True)
    with pytest.raises(LibraryMissingError, match="needs onnxruntime; run it where the service is"):
        cli_trust._gate("id", registry.root, None, [], as_json=False)


def deny(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As for a user who may not look into ``folder``: tests run as root, whom modes do not stop."""
    real = os.stat, os.lstat, os.open, os.scandir, os.listdir

    def denied(call: Any) -> Any:
        def asked(path: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(path, str | Path) and folder in (*Path(path).parents, *([Path(path)] if call in real[3:] else [])):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return call(path, *arguments, **options)

        return asked

    for name, call in zip(("stat", "lstat", "open", "scandir", "listdir"), real, strict=True):
        monkeypatch.setattr(os, name, denied(call))


def run_here(registry: Registry, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["snapshot", *arguments, "--registry", str(registry.root)])
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


def test_a_snapshot_that_may_not_be_read_does_not_hide_the_others(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = registry.ids()
    deny(monkeypatch, registry.root / a)
    assert run_here(registry, monkeypatch, "list", "--json") == 0
    listing = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in listing["snapshots"]] == [b]
    assert "Permission denied" in listing["unreadable"][a]
    for command in (["show", a], ["verify", a], ["diff", a, b], ["activate", a]):
        assert run_here(registry, monkeypatch, *command) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert "Permission denied" in said[0]
    assert run_here(registry, monkeypatch, "gc", "--keep", "1", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["kept"][a] == ["open"]  # whether it is cannot be told


@pytest.mark.parametrize("command", ["list", "show ID", "verify ID", "diff ID ID", "gc --keep 1", "pin ID", "activate ID"])
def test_a_registry_that_may_not_be_read_is_said_to_be(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    a, _ = registry.ids()
    deny(monkeypatch, registry.root)
    assert run_here(registry, monkeypatch, *command.replace("ID", a).split()) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "Permission denied" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("list --json --nope", "No such option: --nope"),
        ("show --json", "Missing argument 'ID'"),
        ("gc --json", "Missing option '--keep'"),
        ("gc --keep x --json", "Invalid value for '--keep'"),
        ("activate a b --json", "unexpected extra argument"),
        ("lst --json", "No such command 'lst'"),
        ("--json", "No such option: --json"),
    ],
)
def test_wrong_usage_is_one_object_for_machines(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str, words: str
) -> None:
    assert run_here(registry, monkeypatch, *arguments.split()) == 2
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert error["code"] == "usage"
    assert words in error["reason"]
    assert printed.err.splitlines() == [f"error: {error['reason']}"]


def test_wrong_usage_is_a_page_for_people_and_help_is_help(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(registry, monkeypatch, "list", "--nope") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "No such option: --nope" in printed.err
    assert run_here(registry, monkeypatch, "list", "--json", "--help") == 0
    assert "--registry" in capsys.readouterr().out


def test_a_file_is_no_registry(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    done = snapshot(Registry(path), "list")
    assert done.returncode == 2
    assert "Not a directory" in done.stderr
