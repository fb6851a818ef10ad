"""What the commands of ``python -m snapshot`` share: their options, and how they print."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from snapshot.errors import RegistryError
from snapshot.paths import refuse_snapshot
from snapshot.printable import printable
from snapshot.registry import Registry
from snapshot.stores import local_folder


def registry_folder(value: str | Path) -> Path:
    """What ``--registry`` names: a folder, also as a file URL."""
    return local_folder(str(value))


RegistryOption = Annotated[
    Path,
    typer.Option("--registry", metavar="DIR", parser=registry_folder, envvar="SCALINGNOTE_REGISTRY", help="Folder of snapshots."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
WhyOption = Annotated[str, typer.Option(help="Why, in up to 500 characters; kept in history.jsonl.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="A snapshot's id, from: python -m snapshot list")]
DEFAULT_REGISTRY = Path("registry")
_WIDE = 10_000
"""Columns where nobody looks: in a pipe a row is a line, and nothing of it is cut or folded."""


def existing(root: Path) -> Registry:
    """The registry in a folder; RegistryError where there is none, which must not look as if it were empty."""
    if not root.exists():
        raise RegistryError(
            f"{root}: no such folder; name the folder of snapshots with --registry, or make one with: "
            f"python -m offline run RECIPE --registry {root}"
        )
    refuse_snapshot(root)
    return Registry(root)


def print_json(content: object) -> None:
    """On standard output."""
    typer.echo(json.dumps(content, indent=2, default=str))


def print_table(headings: Iterable[str], rows: Iterable[Iterable[object]], title: str | None = None) -> None:
    """Cells are printed as they are: not as markup, and without what a terminal would obey. The column ``id`` is never cut."""
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, no_wrap=heading == "id", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)


def age_seconds(created_at: datetime) -> float:
    """Negative where the clock that made it was ahead of ours."""
    return (datetime.now(UTC) - created_at).total_seconds()


def age(seconds: float) -> str:
    """In the largest unit that fits, as in ``3 h``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
