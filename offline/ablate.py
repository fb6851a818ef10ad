"""Which parts of a recipe are worth having: rows that change it, each measured against the default on the same queries.

A command rather than a stage: each row is a variant of the recipe (``offline.grid``) that runs ``prepare``, ``train``,
``encode``, the stages up to the query tower, and the stage ``ablate`` below, sharing what rows have in common.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from offline import plots_grid, towers
from offline.bootstrap import Interval, Values, difference_interval, mean_interval
from offline.config import Config, EvaluateConfig
from offline.data.prepared import Prepared
from offline.encoded import load_vectors
from offline.errors import DataError, OfflineError, RecipeError
from offline.exam import halves
from offline.findings import Goal
from offline.grid import UNDISTILLED, Grid, Variant
from offline.judged import LEAST_JUDGED, Judged, judged_split, why_too_few
from offline.markdown import cell, difference, estimate, table, yes
from offline.metrics import ndcg
from offline.progress import say
from offline.ranking import exact_top_k
from offline.recipe import Recipe
from offline.stages import Job, Stage, Summary
from offline.students import check_student
from offline.walk import STAGES
from snapshot.files import atomic_write, write_text
from snapshot.text import render_query

DEFAULT = "default"
GRID = Path(__file__).with_name("ablation.toml")
PAGE = "ablation.md"
HALF_OF_DEV = "refine.half_of_dev=true"
"""The override of every row that is measured on dev."""
_VALUES = "values.npz"
_DEPTH = 10
_NAME = r"^[a-z0-9][a-z0-9+.-]*$"
QueryTower = Literal["student", "teacher"]


class Row(BaseModel):
    """One variant of the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=_NAME)]
    group: str
    about: str
    query_tower: QueryTower = "student"
    set: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Changes as ``--set`` takes them."""


class Lead(BaseModel):
    """A goal of the grid: ``row`` is better than ``over``, or not worse than it, outside the interval.

    Attributes:
        unbeaten: asks that the interval does not lie below zero; else that it lies above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
    row: str
    over: str
    unbeaten: bool = False


class Found(BaseModel):
    """A row's result; ``difference`` is its nDCG@10 minus that of the default, paired by query."""

    model_config = ConfigDict(frozen=True)

    row: Row
    layers: int
    parameters: int
    """Of the query tower, without embeddings: what a query costs online."""
    ndcg: Interval
    difference: Interval


class Terms(BaseModel):
    """What the figures are of."""

    model_config = ConfigDict(frozen=True)

    moved: str | None = None
    """Why it is another split than was asked for."""
    is_refined: bool = True
    """Whether refinement chose weights of any row."""
    left_out: tuple[str, ...] = ()
    """Rows that the recipe's backbone cannot have, and why."""


class Report(BaseModel):
    """The content of ``ablation.json``."""

    model_config = ConfigDict(frozen=True)

    recipe: str
    overrides: tuple[str, ...]
    split: str
    queries: int
    terms: Terms
    rows: tuple[Found, ...]
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True)
class Rows:
    """What a grid runs, and what it is to show; ``named`` are the rows that were asked for by name and not by group."""

    rows: tuple[Row, ...]
    goals: tuple[Lead, ...] = ()
    named: frozenset[str] = frozenset()


class _File(Config):
    """A grid as it is written."""

    row: Annotated[tuple[Row, ...], Field(strict=False)] = ()
    goal: Annotated[tuple[Lead, ...], Field(strict=False)] = ()


@dataclass(frozen=True)
class Measured:
    """What the stage of a row left: nDCG@10 float64[q], a digest of the ids of those queries, and the size of its query tower."""

    split: str
    queries: str
    ndcg: Values
    layers: int
    parameters: int


def load_grid(path: Path, wanted: Sequence[str] = ()) -> Rows:
    """The rows of a grid; of those named in ``wanted`` (names or groups) where that is not empty, and the default always.

    Goals are those between rows that are chosen.

    Raises:
        RecipeError: the file cannot be read, is no grid, or has no such row.
    """
    try:
        told = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: not a grid of [[row]] tables (name, group, about, set) and [[goal]]: {error}") from error
    except ValidationError as error:
        wrong = (f"{path}: {'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
        raise RecipeError("\n".join(wrong)) from error
    rows, goals = told.row, told.goal
    names = [row.name for row in rows]
    if DEFAULT not in names or len(set(names)) != len(names):
        raise RecipeError(f"{path}: a grid needs a row named {DEFAULT}, and each name once; it has {', '.join(names) or 'none'}")
    if strange := sorted({name for goal in goals for name in (goal.row, goal.over)} - set(names)):
        raise RecipeError(f"{path}: a goal names {strange[0]}, which is no row; there are {', '.join(names)}")
    unknown = set(wanted) - {*names, *(row.group for row in rows)}
    if unknown:
        raise RecipeError(f"{path}: no row or group {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    chosen = [row for row in rows if not wanted or row.name == DEFAULT or {row.name, row.group} & set(wanted)]
    there = frozenset(row.name for row in chosen)
    return Rows(
        tuple(sorted(chosen, key=lambda row: row.name != DEFAULT)),
        tuple(goal for goal in goals if {goal.row, goal.over} <= there),
        there & set(wanted),
    )


def ablate(grid: Grid, chosen: Rows, split: str) -> Report:
    """Run every row and write ``ablation.md``, ``ablation.json`` and the plot into the grid's folder ``report``.

    Raises:
        RecipeError: the default, or a row that was named, does not fit the recipe; told before anything runs.
        DataError: no split has judged queries; told before anything is trained.
    """
    rows, left_out = _fitting(grid, chosen)
    split, moved = _split_there(grid.variant(DEFAULT, _changes(rows[0])), split)
    apart = (HALF_OF_DEV,) if split == "dev" else ()
    variants = [(row, grid.variant(row.name, (*_changes(row), *apart))) for row in rows]
    is_refined = any(row.query_tower == "student" and variant.recipe.refine.is_on for row, variant in variants)
    terms = Terms(moved=moved, is_refined=is_refined, left_out=left_out)
    results: list[tuple[Row, Measured]] = []
    for number, (row, variant) in enumerate(variants, start=1):
        say(f"[{number}/{len(variants)}] {row.name}: {row.about}")
        found = _run(variant, row.query_tower, split)
        say(f"  {row.name}: nDCG@10 {found.ndcg.mean():.4f} on {len(found.ndcg):,} {found.split} queries")
        results.append((row, found))
        report = _write(grid, variants[0][1].recipe, results, chosen.goals, terms)
    return report


def _split_there(variant: Variant, split: str) -> tuple[str, str | None]:
    """The split that was asked for, else another that has enough queries to measure on, else that with the most; and why."""
    variant.run("prepare")
    prepared = Prepared(variant.work / "prepare")
    counts = {each: len(_judged(prepared, variant.recipe, each)) for each in dict.fromkeys((split, "test", "dev"))}
    found = max(counts, key=lambda each: min(counts[each], LEAST_JUDGED))
    if not counts[found]:
        raise DataError(f"{prepared.folder}: neither dev nor test has judged queries with a relevant document to measure on")
    if found == split:
        return split, None
    moved = f"too few judged {split} queries ({counts[split]:,}): the {counts[found]:,} of {found} are measured on"
    say(f"  warning: {moved}, and a row that is chosen has seen them")
    return found, moved


def _changes(row: Row) -> tuple[str, ...]:
    return row.set if row.query_tower == "student" else (*row.set, UNDISTILLED)


def _fitting(grid: Grid, chosen: Rows) -> tuple[list[Row], tuple[str, ...]]:
    """Rows that the recipe's backbone can have, and which are left out, and why: those of a group may lack layers.

    Raises:
        RecipeError: the default, or a row that was named, is none of them.
    """
    fitting, left_out = [], []
    for row in chosen.rows:
        try:
            check_student(grid.variant(row.name, _changes(row)).recipe)
        except OfflineError as error:
            if row.name in (DEFAULT, *chosen.named):
                message = f"row {row.name}: {error}; name other rows with --rows, or give a grid that fits with --grid"
                raise RecipeError(message) from error
            say(f"  warning: row {row.name} is left out: {error}")
            left_out.append(f"{row.name} ({error})")
        else:
            fitting.append(row)
    return fitting, tuple(left_out)


def _run(variant: Variant, query_tower: QueryTower, split: str) -> Measured:
    stage = _stage(query_tower, split)
    for name in ("prepare", "train", "encode", *(_after_training() if query_tower == "student" else ())):
        variant.run(name)
    variant.run(stage)
    folder = variant.work / stage.name
    found, told = np.load(folder / _VALUES), json.loads((folder / "told.json").read_text(encoding="utf-8"))
    return Measured(told["split"], told["queries"], found["ndcg"], told["layers"], told["parameters"])


def _after_training() -> list[str]:
    """Stages that make the query tower which is served."""
    return [name for name in ("distill", "refine") if name in STAGES]


def _stage(query_tower: QueryTower, split: str) -> Stage:
    last = _after_training()[-1] if query_tower == "student" else "train"
    folder = Path("query_tower") if query_tower == "teacher" else Path("student")
    return Stage(
        name=f"ablate-{split}",
        run=lambda job: _measure(job, job.inputs[last] / folder, split),
        needs=("prepare", "train", "encode", *(_after_training() if query_tower == "student" else ())),
        sections=("text", "data"),
        outside=lambda recipe, _source: {
            "query_tower": query_tower,
            "queries": recipe.evaluate.max_queries,
            "seed": recipe.evaluate.seed,
            "told": 3,  # of what the stage writes
        },
    )


def _measure(job: Job, tower: Path, split: str) -> Summary:
    """NDCG@10 of one query tower in torch, exact search over the document vectors."""
    prepared, spec = Prepared(job.inputs["prepare"]), job.recipe.text.query
    judged = _judged(prepared, job.recipe, split)
    model = towers.load_tower(tower)
    queries = towers.encode(model, spec, [render_query(spec, text) for text in judged.texts])
    values = ndcg(judged, exact_top_k(queries, load_vectors(job.inputs["encode"]), judged.depth(_DEPTH))[1])
    told: dict[str, str | int] = {
        "split": judged.split,
        "queries": hashlib.sha256("\n".join(judged.ids).encode()).hexdigest()[:12],
        "layers": int(getattr(towers.backbone_of(model).config, "num_hidden_layers", 0)),
        "parameters": towers.count_body_parameters(model),
    }
    with atomic_write(job.folder / _VALUES) as handle:
        np.savez(handle, ndcg=values)
    write_text(job.folder / "told.json", json.dumps(told))
    return {"nDCG@10": float(values.mean()), **told}


def _judged(prepared: Prepared, recipe: Recipe, split: str) -> Judged:
    """Of dev those by which refinement did not choose: rows that refine would else be measured by what they were chosen by."""
    judged = judged_split(prepared, recipe, split)
    if split == "dev":
        _, judged = halves(judged)
    return judged.sample(recipe.evaluate.max_queries, recipe.evaluate.seed)


def _write(grid: Grid, recipe: Recipe, results: Sequence[tuple[Row, Measured]], goals: Sequence[Lead], terms: Terms) -> Report:
    config, (_, default) = recipe.evaluate, results[0]
    for row, measured in results:
        if measured.queries != default.queries:
            raise RecipeError(
                f"row {row.name!r} is measured on other queries than the default ({len(measured.ndcg)} and {len(default.ndcg)}): "
                "it changes which are judged, so that nothing can be paired. Change such settings for all rows, by --set"
            )
    report = Report(
        recipe=recipe.name,
        overrides=grid.overrides,
        split=default.split,
        queries=len(default.ndcg),
        terms=terms,
        rows=tuple(
            Found(
                row=row,
                layers=found.layers,
                parameters=found.parameters,
                ndcg=mean_interval(found.ndcg, config.bootstrap, config.seed),
                difference=difference_interval(found.ndcg, default.ndcg, config.bootstrap, config.seed),
            )
            for row, found in results
        ),
        goals=tuple(_judge({row.name: found.ndcg for row, found in results}, goals, config)),
    )
    folder = grid.folder / "report"
    write_text(folder / "ablation.json", report.model_dump_json(indent=2))
    write_text(folder / PAGE, page(report))
    others = report.rows[1:]
    if others:
        names, found = [one.row.name for one in others], [one.difference for one in others]
        plots_grid.draw_differences(names, found, folder / "ablation.png")
    return report


def _judge(values: Mapping[str, Values], goals: Sequence[Lead], config: EvaluateConfig) -> Iterator[Goal]:
    """Of the rows that have run."""
    for goal in goals:
        if goal.row in values and goal.over in values:
            lead = difference_interval(values[goal.row], values[goal.over], config.bootstrap, config.seed)
            figure, few = lead.high if goal.unbeaten else lead.low, why_too_few(len(values[goal.row]))
            yield Goal(name=goal.name, figure=figure, bound=0.0, above=not goal.unbeaten, why=few)


_ON_TEST = "They chose no weights of any row; whoever chooses a row by them has no test queries left."
_REFINED = "These are the half of dev by which refinement chose no weights; it chose by the other."
_UNREFINED = "These are half of dev, the same that rows with refinement are measured on; no row here is refined."
_ON_DEV = (
    " Stage 1 of every row chose its weights by all of dev: of rows that train other towers, `--split test` says what is left of "
    "that."
)


def _chosen(report: Report) -> str:
    """Which weights the queries have chosen that measure here."""
    if report.split == "test":
        return _ON_TEST
    return (_REFINED if report.terms.is_refined else _UNREFINED) + _ON_DEV


def page(report: Report) -> str:
    """The Markdown page."""
    header = ["row", "what", "layers", "million parameters online", "nDCG@10", "minus default", "zero outside the interval"]
    rows = [
        [
            one.row.name,
            cell(one.row.about),
            f"{one.layers}",
            f"{one.parameters / 1e6:.2f}",
            estimate(one.ndcg),
            difference(one.difference),
            yes(one.difference.excludes_zero),
        ]
        for one in report.rows
    ]
    settings = " ".join(f"--set {override}" for override in report.overrides)
    terms = report.terms
    moved = f" Not what was asked for: {terms.moved}." if terms.moved else ""
    left_out = f"\n\nLeft out: {', '.join(terms.left_out)}." if terms.left_out else ""
    return (
        f"# {report.recipe}: what its parts are worth\n\n"
        f"On {report.queries:,} {report.split} queries, query towers in torch, exact search. Brackets are 95% bootstrap "
        "intervals over the queries; differences are paired by query. One seed a row: the noise of training is not in them."
        f" {_chosen(report)}{moved}{f' All rows with `{settings}`.' if settings else ''}\n\n"
        f"{table(header, rows)}{left_out}\n\n![Each row minus the default](ablation.png)\n{_goals(report)}"
    )


def _goals(report: Report) -> str:
    if not report.goals:
        return ""
    said = "\n".join(goal.describe() for goal in report.goals)
    return (
        "\nEnds of the paired 95% interval of one row minus another: of `*_low` the lower, above zero where the first is better; "
        f"of `*_unbeaten` the higher, below zero where it is worse.\n\n```\n{said}\n```\n"
    )
