"""``python -m offline``: from a recipe and data to a published snapshot, in stages that resume after a kill."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from offline.closing import after_run, after_since, unchanged
from offline.data.prepared import Prepared
from offline.errors import OfflineError, ParentError, RecipeError, StageError
from offline.grid import Grid
from offline.made import check_made, check_read
from offline.plan.command import plan
from offline.progress import say
from offline.recipe import load_recipe
from offline.runners import RunnerName, make_runner
from offline.stages import Source
from offline.walk import REUSE, SINCE, STAGES, Walk, alone, stage_of
from snapshot import cli, printable
from snapshot.errors import SnapshotError
from snapshot.leases import hold

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe in TOML, such as offline/recipes/demo.toml.")]
DataOption = Annotated[Path | None, typer.Option(help="A folder in BEIR layout: corpus.jsonl, queries.jsonl, qrels/*.tsv.")]
LogOption = Annotated[Path | None, typer.Option("--query-log", help="Unlabelled queries, one a line, for distillation.")]
OutOption = Annotated[Path | None, typer.Option(help="Work folder; work/NAME unless given. Runs resume in it.")]
RegistryOption = Annotated[
    Path, typer.Option(metavar="DIR", parser=cli.registry_folder, help="Folder of snapshots to publish into.")
]
ServiceOption = Annotated[str | None, typer.Option("--service", metavar="URL", help="Measure this service over HTTP instead.")]
KeyOption = Annotated[Path | None, typer.Option("--key-file", metavar="FILE", help="With an API key, where --service wants one.")]
RunnerOption = Annotated[
    RunnerName,
    typer.Option(
        help="Who encodes: local, this process; ray, the workers of a Ray cluster (extra ray, section ray of the recipe)."
    ),
]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe value: train.epochs=2.")]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="PARENT",
        help="Encode only what changed since this snapshot (an id in the registry, CURRENT, or a folder), and train nothing.",
    ),
]
ReuseOption = Annotated[
    str | None,
    typer.Option(
        "--reuse-index",
        metavar="PARENT",
        help="Link index and documents of this snapshot (an id in the registry, CURRENT, or a folder): a new student for them.",
    ),
]
TowerOption = Annotated[
    Path | None,
    typer.Option(
        "--document-tower", metavar="DIR", help="The parent's document tower; train/document_tower of --out unless given."
    ),
]


@dataclass(frozen=True)
class Options:
    """What every command takes."""

    recipe: Path
    data: Path | None
    query_log: Path | None
    out: Path | None
    registry: Path
    overrides: tuple[str, ...]
    runner: RunnerName = "local"

    def walk(self, parent: Path | None = None, document_tower: Path | None = None) -> Walk:
        recipe = load_recipe(self.recipe, self.overrides)
        make_runner(self.runner, recipe.ray)  # before the long work
        work = self.out or Path("work") / recipe.name
        tower = document_tower or work / "train" / "document_tower"
        source = Source(
            data=self.data,
            query_log=self.query_log,
            registry=self.registry,
            parent=parent,
            document_tower=tower.resolve() if parent is not None else None,
            runner=self.runner,
        )
        return Walk(recipe, source, work)

    def grid(self, name: str) -> Grid:
        """Variants of the recipe, in the folder ``name`` of the work folder, which lends the stages that it has finished."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise StageError(
                f"{name} runs in one process, a variant after the other; start it without accelerate launch or torchrun"
            )
        work = self.out or Path("work") / load_recipe(self.recipe, self.overrides).name
        source = Source(data=self.data, query_log=self.query_log, registry=self.registry)
        return Grid(self.recipe, self.overrides, source, work / name, (work,))

    def parent(self, name: str, option: str) -> Path:
        from offline.parent import find_parent  # with torch, which takes seconds

        return find_parent(name, self.registry, option)


@app.command("run")
def run(
    recipe: RecipeArgument,
    data: DataOption = None,
    query_log: LogOption = None,
    out: OutOption = None,
    registry: RegistryOption = Path("registry"),
    set_: SetOption = None,
    since: SinceOption = None,
    document_tower: TowerOption = None,
    runner: RunnerOption = "local",
) -> None:
    """The whole walk. Stages whose receipts still fit are not run again."""
    options = Options(recipe, data, query_log, out, registry, tuple(set_ or ()), runner)
    if since is not None:
        _run_since(options, since, document_tower)
        return
    if document_tower is not None:
        raise ParentError("--document-tower goes with --since; a run without it trains its own towers")
    walk = options.walk()
    walk.reach()
    _run_all(walk, STAGES)
    for line in walk.goals():
        say(line)
    say(after_run(walk))


def _run_since(options: Options, since: str, document_tower: Path | None) -> None:
    walk = options.walk(options.parent(since, "--since"), document_tower)
    walk.reach()
    with _parent_held(walk):
        for name in SINCE:
            _run(walk, name, SINCE)
            if name == "since/encode" and (same := unchanged(walk)):
                say(same)
                return
    say(after_since(walk))


def _parent_held(walk: Walk) -> AbstractContextManager[object]:
    """No ``gc`` removes the parent while it is read."""
    return nullcontext() if walk.source.parent is None else hold(walk.source.parent)


@app.command("encode", help=f"{STAGES['encode']} One stage of `run`; needs the stages before it.")
def encode(
    recipe: RecipeArgument,
    data: DataOption = None,
    query_log: LogOption = None,
    out: OutOption = None,
    registry: RegistryOption = Path("registry"),
    set_: SetOption = None,
    runner: RunnerOption = "local",
) -> None:
    _run_alone(Options(recipe, data, query_log, out, registry, tuple(set_ or ()), runner).walk(), "encode")


@app.command("evaluate", help=f"{STAGES['evaluate']} One stage of `run`; or, with --service, what a running service achieves.")
def evaluate(
    recipe: RecipeArgument,
    data: DataOption = None,
    query_log: LogOption = None,
    out: OutOption = None,
    registry: RegistryOption = Path("registry"),
    set_: SetOption = None,
    service: ServiceOption = None,
    key_file: KeyOption = None,
) -> None:
    walk = Options(recipe, data, query_log, out, registry, tuple(set_ or ())).walk()
    if service is None:
        _run_alone(walk, "evaluate")
        return
    from offline.over_http import evaluate_service, read_key  # with ir-measures, which no other command needs at once

    key = read_key(key_file)
    _run(walk, "prepare")
    typer.echo(evaluate_service(service, Prepared(walk.work / "prepare"), walk.recipe, key).describe())


@app.command(
    "pack", help=f"{STAGES['pack']} One stage of `run`; needs the stages before it, with --reuse-index those up to distill."
)
def pack(
    recipe: RecipeArgument,
    data: DataOption = None,
    query_log: LogOption = None,
    out: OutOption = None,
    registry: RegistryOption = Path("registry"),
    set_: SetOption = None,
    reuse_index: ReuseOption = None,
) -> None:
    options = Options(recipe, data, query_log, out, registry, tuple(set_ or ()))
    if reuse_index is None:
        _run_alone(options.walk(), "pack")
        return
    walk = options.walk(options.parent(reuse_index, "--reuse-index"))
    with _parent_held(walk):
        check_made(walk, tuple(REUSE), of_older_data=True)
        _run_all(walk, REUSE)
    say(f"Sealed in {walk.work / 'pack'}. Publish it with: python -m offline publish {recipe} and the same options")


@app.command("search")
def search(
    recipe: RecipeArgument,
    data: DataOption = None,
    query_log: LogOption = None,
    out: OutOption = None,
    registry: RegistryOption = Path("registry"),
    set_: SetOption = None,
    budget_ms: Annotated[
        float, typer.Option(min=1e-6, help="What encoding one query may take, on one thread of this machine.")
    ] = 0.5,
    finish: Annotated[bool, typer.Option(help="Train the best student to the end, as the stage distill.")] = True,
) -> None:
    """Find the best student within a latency budget. Runs prepare, train and encode first where they have not finished."""
    from offline import search as students  # with torch, which takes seconds

    walk = Options(recipe, data, query_log, out, registry, tuple(set_ or ())).walk()
    students.check_candidates(walk.recipe)
    for name in ("prepare", "train", "encode"):
        _run(walk, name)
    found = students.search(walk, budget_ms)
    if finish and found.best is not None:
        say(f"  distill: {walk.run_stage(stage_of('distill'), students.with_best(walk.recipe, found)).describe()}")
    say(students.closing(found, walk, recipe, set_ or ()))


@app.command("scaling")
def scaling(
    recipe: RecipeArgument,
    data: DataOption = None,
    query_log: LogOption = None,
    out: OutOption = None,
    set_: SetOption = None,
) -> None:
    """Fit how quality grows with the tower and with data: train sizes and shares of the data, and predict the largest."""
    from offline import laws, scaling  # with scipy and torch

    options = Options(recipe, data, query_log, out, Path("registry"), tuple(set_ or ()))
    grid = options.grid("scaling")
    with alone(grid.folder), _going_on_later(grid.folder):
        plan = scaling.plan(grid)
        shares = scaling.measure_all(plan.shares)
        sizes = scaling.measure_all(plan.sizes)
        report = laws.write_report(plan.sizes[0].recipe, sizes, shares, scaling.report_folder(grid))
    for law in report.laws:
        say(laws.describe(law))
    for goal in report.goals:
        typer.echo(goal.describe())
    say(f"Written: {grid.folder / 'report' / laws.PAGE}, its plots and scaling.json.")


@app.command("ablate")
def ablate(
    recipe: RecipeArgument,
    data: DataOption = None,
    query_log: LogOption = None,
    out: OutOption = None,
    set_: SetOption = None,
    grid: Annotated[Path | None, typer.Option(help="A TOML file of rows; offline/ablation.toml unless given.")] = None,
    rows: Annotated[str | None, typer.Option(help="Only these rows or groups, by comma; the default row always.")] = None,
    split: Annotated[str, typer.Option(help="dev, of which one half chooses and the other measures, or test.")] = "dev",
) -> None:
    """What each part of a recipe is worth: rows that change it, against the default, with paired intervals."""
    from offline import ablate

    if split not in ("dev", "test"):
        raise RecipeError(f"--split {split}: give dev or test")
    variants = Options(recipe, data, query_log, out, Path("registry"), tuple(set_ or ())).grid("ablate")
    chosen = ablate.load_grid(grid or ablate.GRID, [name.strip() for name in (rows or "").split(",") if name.strip()])
    with alone(variants.folder), _going_on_later(variants.folder):
        report = ablate.ablate(variants, chosen, split)
    typer.echo(ablate.page(report))
    say(f"Written: {variants.folder / 'report' / ablate.PAGE}, ablation.png and ablation.json.")


@app.command("mteb")
def mteb(
    recipe: RecipeArgument,
    data: DataOption = None,
    query_log: LogOption = None,
    out: OutOption = None,
    set_: SetOption = None,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "test",
    teacher: Annotated[bool, typer.Option("--teacher", help="The teacher's query tower in place of the student.")] = False,
) -> None:
    """MTEB's scores of the saved towers on the recipe's own data; needs the extra mteb."""
    try:
        from offline import mteb_model
    except ModuleNotFoundError as error:
        raise OfflineError(f"mteb is not installed ({error.name}): pip install '.[mteb]'") from error
    walk = Options(recipe, data, query_log, out, Path("registry"), tuple(set_ or ())).walk()
    check_read(walk, mteb_model.stage_of_query_tower(walk.work, student=not teacher), "mteb")
    towers = mteb_model.Towers.load(walk.work, walk.recipe, student=not teacher)
    for name, value in mteb_model.evaluate(towers, Prepared(walk.work / "prepare"), walk.recipe, split).items():
        typer.echo(f"{name} {value:.5f}")


@app.command("card")
def card(snapshot: Annotated[Path, typer.Argument(metavar="SNAPSHOT", help="Folder of a sealed snapshot.")]) -> None:
    """Check a snapshot and print its model card under the sha256 of its manifest."""
    from offline import card

    typer.echo(card.read(snapshot))


app.command("plan")(plan)


@contextmanager
def _going_on_later(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say(f"Stopped. What is finished stays in {folder}; the same command goes on from there.")
        raise typer.Exit(130) from None


def _add_stage(name: str, summary: str) -> None:
    def command(
        recipe: RecipeArgument,
        data: DataOption = None,
        query_log: LogOption = None,
        out: OutOption = None,
        registry: RegistryOption = Path("registry"),
        set_: SetOption = None,
    ) -> None:
        _run_alone(Options(recipe, data, query_log, out, registry, tuple(set_ or ())).walk(), name)

    app.command(name, help=f"{summary} One stage of `run`; needs the stages before it.")(command)


def _run_all(walk: Walk, stages: Mapping[str, str]) -> None:
    for name in stages:
        _run(walk, name, stages)


def _run_alone(walk: Walk, name: str) -> None:
    """A new student goes with towers that were trained before the documents changed, so ``distill`` may be of older data."""
    check_made(walk, (name,), of_older_data=name == "distill")
    _run(walk, name)


def _run(walk: Walk, name: str, stages: Mapping[str, str] = STAGES) -> None:
    say(f"[{list(stages).index(name) + 1}/{len(stages)}] {name}: {stages[name]}")
    try:
        say(f"  {walk.run(name).describe()}")
    except KeyboardInterrupt:
        say(f"Stopped in {name}. What is finished stays in {walk.work}; the same command goes on from there.")
        raise typer.Exit(130) from None


def main() -> None:
    """Run the command line; an error of ours is its message on standard error and exit code 2."""
    printable.escape_what_cannot_be_printed()
    for name in STAGES.keys() - {"encode", "evaluate", "pack"}:
        _add_stage(name, STAGES[name])
    try:
        app()
    except (OfflineError, SnapshotError) as error:
        say(f"error: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
