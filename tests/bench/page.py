"""``docs/performance.md``, made from a result: what was measured, on what, by which command."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel

from snapshot.files import write_text
from tests.bench import plots
from tests.bench.figures import Rows
from tests.bench.goals import Verdict
from tests.bench.result import Result
from tests.bench.table import Sheet, goal_sheet, sheets

PAGE, SUMMARY, NOTES, IMAGES = "performance.md", "performance.json", "performance-notes.md", "images"


class Summary(BaseModel):
    """What the page is made of, small enough to be committed beside it.

    Attributes:
        notes: written by people: why goals are missed.
        images: file names below ``images`` and their captions.
    """

    command: str
    finished_at: datetime
    commit: str
    machine: dict[str, str]
    versions: dict[str, str]
    about: dict[str, str]
    goals: list[Verdict]
    tables: list[Sheet]
    notes: str
    images: dict[str, str]


def write_page(result: Result, docs: Path) -> None:
    """Write page, summary and pictures into the folder ``docs``; its notes, if any, go into the page."""
    rows, notes = Rows(result.rows), docs / NOTES
    summary = Summary(
        **result.model_dump(exclude={"rows"}),
        goals=result.verdicts,
        tables=sheets(rows, tuple(dict.fromkeys(row.group for row in result.rows))),
        notes=notes.read_text(encoding="utf-8") if notes.is_file() else "",
        images=plots.draw(rows, docs / IMAGES),
    )
    write_text(docs / SUMMARY, summary.model_dump_json(indent=1))
    write_text(docs / PAGE, render(summary))


def render(summary: Summary) -> str:
    """The page in Markdown."""
    parts = [
        "# Performance",
        _origin(summary),
        _HOW,
        _table(Sheet("", ["what", ""], [list(item) for item in {**summary.machine, **summary.about}.items()])),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in summary.versions.items()) + ".",
        "## Goals",
        _table(goal_sheet(summary.goals)),
        "```text\n" + "\n".join(verdict.line() for verdict in summary.goals) + "\n```",
        summary.notes.strip(),
        *(f"![{caption}]({IMAGES}/{name})" for name, caption in summary.images.items()),
        *(f"## {_title(sheet.title)}\n\n{_table(sheet)}" for sheet in summary.tables),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _origin(summary: Summary) -> str:
    return (
        f"Written by `python -m tests.bench report`, from a run of `{summary.command}` on commit {summary.commit}, finished "
        f"{summary.finished_at:%Y-%m-%d}. Do not edit it; run that again."
    )


_HOW = """Every subject of a group is measured once in each round, so that a noisy minute falls on all of them. Ratios are
taken within a round. A figure is the median of the rounds; least and greatest stand beside it. Latency counts from the
moment when a request was due, whether or not the client could send it then. The client shares the cores with the servers;
what it costs stands in the tables. Rivals keep every default. The service runs without its cache of query vectors, except
where a row says so."""


def _title(text: str) -> str:
    return text[0].upper() + text[1:]


def _table(sheet: Sheet) -> str:
    lines: Sequence[Sequence[str]] = [sheet.header, ["---"] * len(sheet.header), *sheet.lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
