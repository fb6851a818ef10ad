"""docs/logs.md lists the events of the log as the code writes them, both ways."""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
LEVELS = {"info", "warning", "error", "exception"}
CHOSEN = {"request": {"info", "warning"}, "admin_call": {"info", "warning"}, "repeated": {"warning", "error"}}
"""Events whose level is decided when they are written."""
SOMETIMES = {"request": {"key", "queries", "reason"}}
"""Fields that are given by ``**``."""


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call that writes a line, by level: ``_log.info(…)``, ``_audit.…``, or by what was chosen of them."""
    for path in sorted((ROOT / "service").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            asked = node.func
            if isinstance(asked, ast.Attribute) and isinstance(asked.value, ast.Name) and asked.value.id in {"_log", "_audit"}:
                yield asked.attr, node
            elif isinstance(asked, ast.Name) and asked.id == "write":
                yield "chosen", node


def event_of(call: ast.Call) -> str:
    [name] = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return name


def written() -> dict[str, tuple[set[str], set[str]]]:
    """Levels and fields by event."""
    found: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for level, call in calls():
        event = event_of(call)
        levels, fields = found[event]
        levels |= CHOSEN.get(event) or {"error" if level == "exception" else level}
        assert level in LEVELS or event in CHOSEN, ast.unparse(call)
        fields |= {"exception"} if level == "exception" else set()
        for keyword in call.keywords:
            fields |= SOMETIMES[event] if keyword.arg is None else {"exception" if keyword.arg == "exc_info" else keyword.arg}
    return dict(found)


def described() -> dict[str, tuple[set[str], set[str]]]:
    rows = re.findall(r"^\| `(\w+)` \| ([a-z, ]+) \| ([^|]*) \|", PAGE.partition("## Events")[2], flags=re.MULTILINE)
    return {event: (set(levels.split(", ")), set(re.findall(r"`(\w+)`", fields))) for event, levels, fields in rows}


def test_what_uvicorn_says_of_connections_is_listed() -> None:
    source = inspect.getsource(HttpToolsProtocol.data_received) + inspect.getsource(
        HttpToolsProtocol._unsupported_upgrade_warning
    )
    said = {sentence.partition(". ")[0].removesuffix(".") for sentence in re.findall(r'(?:warning\(|msg = )"([^"\\]+)', source)}
    listed = re.findall(
        r"^\| ([A-Z][^|`]+)\. \| `uvicorn.error` \| warning \|", PAGE.partition("## Lines of libraries")[2], re.MULTILINE
    )
    assert len(said) == 3
    assert set(listed) == said


def test_every_event_is_described_with_its_levels_and_fields_and_every_described_one_is_written() -> None:
    assert len(written()) > 20
    assert described() == written()
