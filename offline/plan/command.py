"""``python -m offline plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from offline.errors import PlanError
from offline.plan.demand import Box, Demand, number
from offline.plan.figures import Figure, Figures, load_figures
from offline.plan.make import make_plan
from offline.plan.render import as_json, show

_WIDTH = 150
_MOST_SEED = 2**32


def plan(
    documents: Annotated[str, typer.Option(help="To be searched: 1e9.")],
    dim: Annotated[str, typer.Option(help="Dimensions of their vectors.")],
    qps: Annotated[str, typer.Option(help="Searches a second, at the peak.")],
    p99_ms: Annotated[str, typer.Option("--p99-ms", help="Within which 99 of 100 are to be answered, in milliseconds.")],
    k: Annotated[str, typer.Option(help="Hits of a search.")] = "10",
    tokens: Annotated[str, typer.Option(help="Of a document, as the document tower reads it.")] = "128",
    document_bytes: Annotated[str, typer.Option(help="Stored fields and filterable columns of a document, in bytes.")] = "1000",
    hnsw_m: Annotated[str, typer.Option(help="Links of the HNSW graph, index.m of a recipe.")] = "32",
    tower_parameters: Annotated[
        str, typer.Option(help="Of the document tower without its word embeddings; 0: those of the one that was measured.")
    ] = "0",
    box_memory_gb: Annotated[str, typer.Option(help="Memory of a machine.")] = "256",
    box_cores: Annotated[str, typer.Option(help="Cores of a machine.")] = "32",
    spare_boxes: Annotated[str, typer.Option(help="Machines that may be down.")] = "1",
    encode_boxes: Annotated[str, typer.Option(help="Machines that encode the documents.")] = "1",
    core_hour: Annotated[str | None, typer.Option(help="Price of a core for an hour, in dollars or what you pay in.")] = None,
    gb_hour: Annotated[str | None, typer.Option(help="Price of a gigabyte of memory for an hour.")] = None,
    disk_gb_month: Annotated[str | None, typer.Option(help="Price of a gigabyte of disk for a month.")] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your own figures: TOML, or work/bench/result.json of make bench.")
    ] = None,
    seed: Annotated[str, typer.Option(help="Of the simulation.")] = "1",
    brief: Annotated[bool, typer.Option("--brief", help="The table alone, without formulas and sources.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Plan memory, disk, replicas, shards, hours and cost of a corpus and a load, with formulas and the ranges of the figures."""
    demand = Demand(
        documents=number("--documents", documents),
        dim=number("--dim", dim),
        qps=number("--qps", qps),
        p99_ms=number("--p99-ms", p99_ms),
        k=number("--k", k),
        tokens=number("--tokens", tokens),
        document_bytes=number("--document-bytes", document_bytes),
        m=number("--hnsw-m", hnsw_m),
        encode_boxes=number("--encode-boxes", encode_boxes),
        tower_parameters=number("--tower-parameters", tower_parameters),
    )
    box = Box(
        memory_gb=number("--box-memory-gb", box_memory_gb),
        cores=number("--box-cores", box_cores),
        spare=number("--spare-boxes", spare_boxes),
    )
    prices = {"core_hour": core_hour, "gb_hour": gb_hour, "disk_gb_month": disk_gb_month}
    known = _priced(load_figures(figures), {name: price for name, price in prices.items() if price is not None})
    found = make_plan(demand, box, known, _seed(seed))
    if json_:
        typer.echo(as_json(found, known))
    else:
        show(found, known, Console(width=_WIDTH), brief=brief)


def _priced(figures: Figures, prices: dict[str, str]) -> Figures:
    given = {}
    for name, text in prices.items():
        option = f"--{name.replace('_', '-')}"
        price = number(option, text)
        if price < 0:
            raise PlanError(f"{option} {text}: a price is not below 0")
        given[name] = Figure(mid=price, unit="$", kind="assumed", source=option)
    return figures.override(given, None)


def _seed(text: str) -> int:
    seed = number("--seed", text)
    if seed != int(seed) or not 0 <= seed < _MOST_SEED:
        raise PlanError(f"--seed {text}: must be a whole number from 0 to {_MOST_SEED - 1}")
    return int(seed)
