"""``python -m offline``: from a recipe and data to a published snapshot, in stages that resume after a kill."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from offline.data.prepared import Prepared
from offline.errors import OfflineError
from offline.progress import say
from offline.recipe import load_recipe
from offline.stages import Outcome, Source
from offline.walk import STAGES, Walk
from snapshot.errors import SnapshotError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe in TOML, such as offline/recipes/demo.toml.")]
DataOption = Annotated[Path | None, typer.Option(help="A folder in BEIR layout: corpus.jsonl, queries.jsonl, qrels/*.tsv.")]
LogOption = Annotated[Path | None, typer.Option("--query-log", help="Unlabelled queries, one a line, for distillation.")]
OutOption = Annotated[Path | None, typer.Option(help="Work folder; work/NAME unless given. Runs resume in it.")]
RegistryOption = Annotated[Path, typer.Option(help="Folder of snapshots to publish into.")]
ServiceOption = Annotated[str | None, typer.Option("--service", metavar="URL", help="Measure this service over HTTP instead.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe value: train.epochs=2.")]


@dataclass(frozen=True)
class Options:
    """What every command takes."""

    recipe: Path
    data: Path | None
    query_log: Path | None
    out: Path | None
    registry: Path
    overrides: tuple[str, ...]

    def walk(self) -> Walk:
        recipe = load_recipe(self.recipe, self.overrides)
        source = Source(data=self.data, query_log=self.query_log, registry=self.registry)
        return Walk(recipe, source, self.out or Path("work") / recipe.name)


@app.command("run")
def run(
    recipe: RecipeArgument,
    data: DataOption = None,
    query_log: LogOption = None,
    out: OutOption = None,
    registry: RegistryOption = Path("registry"),
    set_: SetOption = None,
) -> None:
    """The whole walk. Stages whose receipts still fit are not run again."""
    walk = Options(recipe, data, query_log, out, registry, tuple(set_ or ())).walk()
    for name in STAGES:
        _run(walk, name)
    say(_closing(walk, registry))


@app.command("evaluate", help=f"{STAGES['evaluate']} One stage of `run`; or, with --service, what a running service achieves.")
def evaluate(
    recipe: RecipeArgument,
    data: DataOption = None,
    query_log: LogOption = None,
    out: OutOption = None,
    registry: RegistryOption = Path("registry"),
    set_: SetOption = None,
    service: ServiceOption = None,
) -> None:
    walk = Options(recipe, data, query_log, out, registry, tuple(set_ or ())).walk()
    if service is None:
        _run(walk, "evaluate")
        return
    from offline.over_http import evaluate_service  # with ir-measures, which no other command needs at once

    _run(walk, "prepare")
    typer.echo(evaluate_service(service, Prepared(walk.work / "prepare"), walk.recipe).describe())


def _add_stage(name: str, summary: str) -> None:
    def command(
        recipe: RecipeArgument,
        data: DataOption = None,
        query_log: LogOption = None,
        out: OutOption = None,
        registry: RegistryOption = Path("registry"),
        set_: SetOption = None,
    ) -> None:
        _run(Options(recipe, data, query_log, out, registry, tuple(set_ or ())).walk(), name)

    app.command(name, help=f"{summary} One stage of `run`; needs the stages before it.")(command)


def _run(walk: Walk, name: str) -> None:
    number = list(STAGES).index(name) + 1
    say(f"[{number}/{len(STAGES)}] {name}: {STAGES[name]}")
    try:
        say(f"  {_line(walk.run(name))}")
    except KeyboardInterrupt:
        say(f"Stopped in {name}. What is finished stays in {walk.work}; the same command goes on from there.")
        raise typer.Exit(130) from None


def _line(outcome: Outcome) -> str:
    how = "kept, its receipt fits" if outcome.reused else f"done in {outcome.seconds:.1f} s"
    figures = ", ".join(f"{key} {_figure(value)}" for key, value in outcome.summary.items() if value is not None)
    return f"{how} → {outcome.folder}" + (f": {figures}" if figures else "")


def _figure(value: str | int | float | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _closing(walk: Walk, registry: Path) -> str:
    return (
        f"Published {walk.published()} in {registry}; its proof: {walk.work / 'evaluate' / 'report.md'}. "
        f"Serve it with: python -m service --registry {registry}"
    )


def main() -> None:
    """Run the command line; an error of ours is its message on standard error and exit code 2."""
    for name in STAGES.keys() - {"evaluate"}:
        _add_stage(name, STAGES[name])
    try:
        app()
    except (OfflineError, SnapshotError) as error:
        say(f"error: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
