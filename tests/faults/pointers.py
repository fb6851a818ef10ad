"""CURRENT that names nothing, or nonsense; clocks that go back; nothing to fall back on."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from snapshot.layout import Layout
from snapshot.registry import Registry
from tests.faults.clock import set_back
from tests.faults.damaged import flip
from tests.faults.fault import Fault
from tests.faults.stage import Stage, check, command, serving
from tests.faults.toys import FORMER, OTHER, make
from tests.live import Live, until

_LONG = "x" * 100_000
_UNKNOWN = "snapshot_unknown"
_UNREADABLE = "registry_error|snapshot_unknown"
_EARLIER = "20010101T000000Z"
_AN_HOUR_AGO = """
import datetime, sys
from pathlib import Path
import snapshot.registry

class Earlier(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.now(tz) - datetime.timedelta(hours=1)

snapshot.registry.datetime = Earlier
registry = snapshot.registry.Registry(Path(sys.argv[2]))
registry.activate(sys.argv[1], "by a clock that was set back", who="tests")
"""


def faults() -> list[Fault]:
    pointers = {
        "unknown_id": (b"20200101T000000Z-00000000\n", _UNKNOWN),
        "parent_path": (b"../../etc\n", _UNKNOWN),
        "absolute_path": (b"/etc\n", _UNKNOWN),
        "dots": (b"..\n", _UNKNOWN),
        "binary": (b"\xff\xfe\x00\x01", _UNREADABLE),
        "long": (_LONG.encode(), _UNKNOWN),
        "two_lines": (b"a\nb\n", _UNKNOWN),
    }
    return [
        *(
            Fault(f"current_{name}", "refused", partial(_pointer, content=content, code=code), name in ("unknown_id", "binary"))
            for name, (content, code) in pointers.items()
        ),
        Fault("current_empty", "survived", _empty, quick=True),
        Fault("current_removed", "survived", _removed),
        Fault("current_a_folder", "survived", _folder),
        Fault("snapshot_removed_while_it_serves", "survived", _taken_away),
        Fault("clock_set_back_before_activate", "survived", _clock_set_back),
        Fault("clock_set_back_before_publish", "survived", _older_id, quick=True),
        Fault("clock_set_back_while_serving", "survived", set_back),
        Fault("nothing_to_fall_back_on", "refused", _nothing_before, quick=True),
    ]


def _current(stage: Stage) -> Path:
    return stage.registry.root / "CURRENT"


def _pointer(stage: Stage, content: bytes, code: str) -> str:
    """The service complains by name; what its words advise, to activate a snapshot, mends it."""
    _current(stage).write_bytes(content)
    said = _complains(stage, code)
    stage.registry.activate(stage.former, "as the service advised", who="tests")
    until(stage.live, lambda: stage.info()["last_error"] is None, "content again")
    return said


def _complains(stage: Stage, code: str) -> str:
    """The service says by ``code`` why it does not follow, and serves on."""
    stage.poke()

    def failure() -> dict[str, str] | None:
        found = stage.info()["last_error"]
        return found if found and re.fullmatch(code, found["code"]) else None

    found = until(stage.live, failure, f"complaining by {code}")
    stage.serves(stage.former)
    return f"{found['code']}: {found['reason'][:150]}"


def _empty(stage: Stage) -> str:
    _current(stage).write_bytes(b"")
    return _complains(stage, "nothing_published")


def _removed(stage: Stage) -> str:
    _current(stage).unlink()
    return _complains(stage, "nothing_published")


def _folder(stage: Stage) -> str:
    _current(stage).unlink()
    _current(stage).mkdir()
    try:
        return _complains(stage, "registry_error")
    finally:
        _current(stage).rmdir()


def _taken_away(stage: Stage) -> str:
    """Files that are mapped stay, whoever unlinks them; the proof of its watch finds them missing, and takes it back."""
    other = stage.bring().root.name
    stage.want(other)
    stage.becomes(other)
    aside = stage.folder / "aside"
    (stage.registry.root / other).rename(aside)
    stage.poke()
    stage.searches.wait_for_more(20)
    check(not stage.searches.failures, f"searches failed: {stage.searches.failures[:3]}")

    def failure() -> dict[str, str] | None:
        found = stage.info()["last_error"]
        return found if found and found["code"] == "rolled_back" else None

    found = until(stage.live, failure, "taking it back by itself")
    check(str(stage.registry.root / other) in found["reason"], f"it does not say which file: {found['reason']}")
    stage.becomes(stage.former)
    check(not stage.searches.failures, f"searches failed: {stage.searches.failures[:3]}")
    return f"{found['code']}: {found['reason'][:150]}"


def _clock_set_back(stage: Stage) -> str:
    """The latest activation bears the earliest time."""
    other = stage.bring().root.name
    command(other, str(stage.registry.root), program=("-c", _AN_HOUR_AGO)).done("activate by a clock that was set back")
    stage.becomes(other)
    check(stage.registry.history()[-1].snapshot == other, "the history is not in the order of what was done")
    check(stage.registry.rollback("back", who="tests").id == stage.former, "rollback goes by the clock")
    stage.becomes(stage.former)
    return "what was done last counts, whatever its time"


def _older_id(stage: Stage) -> str:
    """A snapshot that was made by a clock of 2001."""
    made = make(stage.folder / "made", OTHER)
    older = f"{_EARLIER}-{made.root.name.rpartition('-')[2]}"
    text = made.manifest.read_text().replace(made.root.name, older)
    made.manifest.write_text(text)
    made = Layout(made.root.rename(made.root.with_name(older)))
    stage.registry.publish(made.root, who="tests")
    stage.registry.activate(older, "by a clock that was set back", who="tests")
    stage.searches.expect(older, OTHER)
    stage.becomes(older)
    said = stage.command("list", "--json").done("list")
    check(older in said, "list does not show it")
    stage.registry.rollback("back", who="tests")
    stage.becomes(stage.former)
    return f"{older} served"


def _nothing_before(stage: Stage) -> str:
    """A service that starts with a damaged snapshot: not ready, by name; and it takes the next intact one."""
    registry = Registry(stage.folder / "alone")
    made = make(registry.root, FORMER)
    registry.activate(made.root.name, "damaged", who="tests")
    flip(made.index)
    with serving(stage.folder, registry.root) as live:
        status, body = until(live, lambda: _unready_by(live, "hash_mismatch"), "unready by name")
        check(status == 503, f"/readyz answered {status}")
        search, problem = live.get("/search", {"query": "apple"})
        check((search, problem["code"]) == (503, "no_snapshot"), f"/search answered {search} {problem}")
        check(live.get("/livez")[0] == 200, "/livez fails")
        intact = make(registry.root, OTHER)
        registry.activate(intact.root.name, "intact", who="tests")
        until(live, live.ready, "ready with the intact one")
    return str(body["detail"])[:200]


def _unready_by(live: Live, code: str) -> tuple[int, dict[str, str]] | None:
    try:
        status, body = live.get("/readyz")
    except OSError:
        return None
    return (status, body) if str(body.get("detail", "")).startswith(code) else None
