"""``python -m service``: answer queries from the snapshot that a registry names as current."""

from __future__ import annotations

import inspect
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from service.errors import ServiceError, SettingsError
from service.head_start import HeadStart
from service.keys.command import app as keys
from service.settings import MOST_K, DescribedSetting, described_settings, load_settings, trust_of, variable
from snapshot.errors import SnapshotError
from snapshot.printable import escape_what_cannot_be_printed

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)

app.add_typer(keys, name="key")

_WRONG_USE = 2


def start(context: typer.Context, **given: str | None) -> None:
    """Serve the snapshot that a registry names as current. Each flag is an environment variable too; flags win."""
    if context.invoked_subcommand is not None:
        return
    settings = load_settings({name: value for name, value in given.items() if value is not None})
    head_start = HeadStart(trust_of(settings))
    head_start.begin(settings.registry)
    from service.main import serve  # after the head start: this is what it is ahead of

    raise typer.Exit(serve(settings, head_start))


@app.command()
def openapi() -> None:
    """Print the OpenAPI document (docs/openapi.json)."""
    from service.reference import render_openapi  # with all that serves: a start does not wait for it

    sys.stdout.write(render_openapi())


@app.command()
def configuration() -> None:
    """Print the table of settings (docs/configuration.md)."""
    from service.reference import render_configuration  # as above

    sys.stdout.write(render_configuration())


@app.command()
def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is; goes into the registry's history and the log.")],
    file: Annotated[Path | None, typer.Option(help="Add the line to this file, made if missing, instead of printing it.")] = None,
) -> None:
    """Make a bearer token for operators' routes: its secret, which is kept nowhere, and the line for admin_tokens_file."""
    from service.tokens import add_token, make_token  # as above

    secret, made = make_token(name)
    if file is None:
        note = f"The secret is shown only here. The line below it is for {variable('admin_tokens_file')}."
        typer.echo(note, err=True)
        typer.echo(f"{secret}\n{made.line}")
    else:
        add_token(file, made)
        typer.echo(f"The secret is shown only here. {file} has its hash; services that use the file know it at once.", err=True)
        typer.echo(secret)


@app.command()
def gate(
    snapshot: Annotated[str, typer.Argument(metavar="ID", help="Which snapshot.")],
    registry: Annotated[str, typer.Option(help="Folder of snapshots.", envvar=variable("registry"))],
    against: Annotated[str | None, typer.Option(metavar="ID", help="Compare with this one, on its golden queries.")] = None,
    key: Annotated[
        list[Path] | None, typer.Option("--key", metavar="FILE", help="Trust this public key, not the settings'; again for each.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Judge a snapshot on this machine as the service would before serving it; 1 where it must not, 2 where that cannot be told.

    The limits are the settings gate_*, from the environment. Recent queries of users are known to a service only.
    """
    from service.gate_command import run  # as above

    raise typer.Exit(run(registry, snapshot, against, as_json, key or ()))


@app.command()
def doctor(
    registry: Annotated[str | None, typer.Option(help="Folder of snapshots.", envvar=variable("registry"))] = None,
    url: Annotated[str | None, typer.Option(help="Of a running service: looks at that, by a few requests.")] = None,
    snapshot: Annotated[str | None, typer.Option(metavar="ID", help="Instead of what the registry wants served.")] = None,
    timeout_seconds: Annotated[float, typer.Option(min=0.001, help="For all requests to the service together.")] = 30.0,
    key_file: Annotated[Path | None, typer.Option(metavar="FILE", help="With an API key, for a service that wants one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, errors too.")] = False,
) -> None:
    """Say what is wrong with this machine and its registry, or with a running service, and what to do; 1 where anything is.

    Settings come from the environment, as those of the service: run it with the service's own. 2: it could not be looked at.
    """
    from service.doctor.command import run  # as above

    raise typer.Exit(run(registry, url, snapshot, timeout_seconds, as_json, key_file))


@app.command()
def explain(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="As a user types it.")],
    registry: Annotated[str | None, typer.Option(help="Folder of snapshots.", envvar=variable("registry"))] = None,
    url: Annotated[str | None, typer.Option(help="Of a running service: two searches, without the encoder's part.")] = None,
    snapshot: Annotated[str | None, typer.Option(metavar="ID", help="Instead of what the registry wants served.")] = None,
    filter_json: Annotated[str | None, typer.Option("--filter", metavar="JSON", help="As of /search.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=MOST_K, help="Hits.")] = 10,
    effort: Annotated[int | None, typer.Option(help="A row of the effort table; unset: the snapshot's default.")] = None,
    timeout_ms: Annotated[
        float | None, typer.Option(min=0.001, help="Budget of the search; unset: the service's default.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(metavar="FILE", help="With an API key, for a service that wants one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, errors too.")] = False,
) -> None:
    """Say of one query where each millisecond went, and which step lost which documents: encoder, int8, index, budget, filter.

    2: it could not be looked at.
    """
    from service.doctor.command import or_error  # as above
    from service.explain.command import run
    from service.explain.question import Question, parse_filter

    def work() -> int:
        question = Question(query, k, parse_filter(filter_json), effort, timeout_ms)
        return run(registry, url, snapshot, question, as_json, key_file)

    raise typer.Exit(or_error(work, as_json))


@app.command()
def milvus(
    registry: Annotated[str, typer.Option(help="Folder of snapshots.", envvar=variable("registry"))],
    milvus_uri: Annotated[
        str | None, typer.Option(metavar="URI", help="The server; http or https.", envvar=variable("milvus_uri"))
    ] = None,
    drop_removed: Annotated[
        bool, typer.Option("--drop-removed", help="Say which belong to snapshots that gc has removed here; drops nothing itself.")
    ] = False,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Drop this removed snapshot's; again for each. No other registry may serve it."),
    ] = None,
    also_registry: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR|URL", help="Another registry on this server, whose snapshots are kept; again for each."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what --drop would do.")] = False,
) -> None:
    """List the collections of a Milvus server, or drop what removed snapshots have left there.

    How to get in is said by the settings milvus_*, from the environment.
    """
    settings = load_settings({"registry": registry} | ({} if milvus_uri is None else {"milvus_uri": milvus_uri}))
    from service import milvus_command  # as above

    if drop:
        lines = milvus_command.drop(settings, drop, also_registry or (), dry_run=dry_run)
    elif drop_removed:
        lines = milvus_command.removed(settings, also_registry or ())
    else:
        lines = (found.describe() for found in milvus_command.collections(settings))
    for line in lines:
        typer.echo(line)


def main() -> None:
    """Run the command line; an error is one line on standard error."""
    escape_what_cannot_be_printed()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server listens for it: the default is to die
    try:
        app()
    except (ServiceError, SnapshotError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(_WRONG_USE if isinstance(error, SettingsError) else 1)


def _signature() -> inspect.Signature:
    """A flag for each setting; all are texts here, because ``load_settings`` converts and checks."""
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    return inspect.Signature([context, *(_parameter(setting) for setting in described_settings())])


def _parameter(setting: DescribedSetting) -> inspect.Parameter:
    text = f"{setting.effect} [{setting.variable}; {setting.default}]"
    annotation: Any = Annotated[str | None, typer.Option(setting.flag, metavar="VALUE", help=text, show_default=False)]
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


start.__signature__ = _signature()  # type: ignore[attr-defined]  # typer reads the flags off it
app.callback(invoke_without_command=True)(start)

if __name__ == "__main__":
    main()
