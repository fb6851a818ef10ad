"""``python -m service key``: make, list and revoke the API keys of a file. Imported by every start, so it imports nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from service.settings import variable

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys; services that use the file follow within a second.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Whose it is; a label of metrics.")]
FileOption = Annotated[Path, typer.Option("--file", help="The file of keys.", envvar=variable("api_keys_file"))]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ScopeOption = Annotated[list[str] | None, typer.Option("--scope", help="What it allows: search or embed; again for both. [both]")]
RateOption = Annotated[float | None, typer.Option("--rate", help="Searches and texts a second. [any number]")]
BurstOption = Annotated[int | None, typer.Option("--burst", help="Of them at once. [the rate, rounded up]")]
DaysOption = Annotated[float | None, typer.Option("--days", min=0, max=36_500, help="How long it holds. [until it is revoked]")]


@app.command()
def new(
    name: NameArgument,
    file: FileOption,
    scope: ScopeOption = None,
    rate: RateOption = None,
    burst: BurstOption = None,
    days: DaysOption = None,
) -> None:
    """Make a key: it is printed once and kept nowhere; its hash goes into the file, which is made if missing."""
    from service.keys.file import PERMISSIONS, add_key, entry_of

    expires_at = None if days is None else (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    secret = add_key(file, entry_of(name, scope or PERMISSIONS, rate, burst, expires_at))
    typer.echo(f"The key is shown only here. {file} has its hash; services that use the file know it within a second.", err=True)
    typer.echo(secret)


@app.command("list")
def list_keys(file: FileOption, as_json: JsonOption = False) -> None:
    """Every key of the file: its name, what it allows, and until when."""
    from service.keys.shown import described, show

    if as_json:
        typer.echo(described(file))
    else:
        show(file, datetime.now(UTC))


@app.command()
def revoke(name: NameArgument, file: FileOption) -> None:
    """Take a key out of the file."""
    from service.keys.file import revoke_key

    revoke_key(file, name)
    typer.echo(f"{name} is revoked; services that use {file} refuse it within a second.")
