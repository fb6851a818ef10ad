"""What ``explain`` has found, put together and shown: a table for people, JSON for machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import typer

from service.explain.chain import Chain, Efforts
from service.explain.losses import Loss, Moved, Step
from service.explain.timing import Timings
from snapshot.cli import print_json, print_table
from snapshot.printable import printable

STEPS: tuple[Step, ...] = ("encoder", "int8", "quantisation", "ann", "budget", "filter")
_UNTOUCHED: Mapping[Step, str] = {"budget": "nothing was given up for time", "filter": "there is no filter"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """One query.

    Attributes:
        reference: what recall is counted against, in words.
        ids: of the rows that are named.
        hits: ids that are served, best first.
    """

    query: str
    snapshot: str
    k: int
    efforts: Efforts
    timings: Timings
    reference: str
    losses: tuple[Loss, ...]
    whole: float
    chain: Chain
    ids: Mapping[int, str]
    hits: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "query": self.query,
            "snapshot": self.snapshot,
            "k": self.k,
            "eligible": self.chain.eligible,
            "effort": self.efforts.planned,
            "timings_ms": {**self.timings.stages_ms, "other": self.timings.other_ms, "total": self.timings.total_ms},
            "reference": self.reference,
            "lost": self.whole,
            "steps": [self._step(step) for step in STEPS],
            "hits": list(self.hits),
            "advice": list(advise(self)),
        }

    def _step(self, step: Step) -> dict[str, Any]:
        loss = self.loss(step)
        if loss is None:
            return {"step": step, "known": step not in self.chain.unknown, "points": None, "note": self.reason(step)}
        moved = {name: [self._moved(row) for row in rows] for name, rows in (("lost", loss.lost), ("won", loss.won))}
        return {"step": step, "known": True, "points": loss.points, "overlap": loss.overlap, "note": loss.note, **moved}

    def _moved(self, moved: Moved) -> dict[str, Any]:
        return {"id": self.ids[moved.row], **{name: value for name, value in asdict(moved).items() if name != "row"}}

    def loss(self, step: Step) -> Loss | None:
        """What a step costs; None where it was not gone through."""
        return next((loss for loss in self.losses if loss.step == step), None)

    def reason(self, step: Step) -> str:
        """Why a step was not gone through."""
        if not self.chain.eligible:
            return "no document is eligible"
        known = {**_UNTOUCHED, **self.chain.absent, **self.chain.unknown}
        return known[step]


def advise(explained: Explanation) -> Iterator[str]:
    """What would win back what was lost, step by step."""
    for loss in explained.losses:
        real = [moved for moved in loss.lost if not moved.tied]
        if loss.lost and not real:
            yield f"{loss.step}: ties: other documents with the same score came instead; nothing is lost"
        elif real:
            yield f"{loss.step}: {_remedy(loss.step, explained.chain.enough)}"


def _remedy(step: Step, enough: int | None) -> str:
    if step == "ann":
        if enough is None:
            return "no effort of the table finds all of it: a higher index.recall_target or another kind of index"
        return f"effort {enough} finds all of it: raise index.recall_target, so that the default effort becomes that"
    return {
        "encoder": "the student has not learned this: distil again with queries like it (--query-log), or a larger student",
        "int8": "serve the fp32 graph (--set export.precision=fp32), or tighten the bounds that int8 must keep",
        "quantisation": "longer codes or more candidates (index.refine_factor) when the index is built again, or an HNSW index",
        "budget": "more time: a longer timeout_ms, fewer requests at a time, or a faster machine (python -m service doctor)",
        "filter": "the filtered search stopped too early: a higher effort (index.recall_target); exact=true finds all of it",
    }[step]


def show(explained: Explanation, as_json: bool) -> None:
    """Print it."""
    if as_json:
        print_json(explained.as_dict())
        return
    timings, rounds = explained.timings, explained.timings.rounds
    typer.echo(f"{printable(explained.query)!r} on {explained.snapshot}: {timings.total_ms:.3f} ms, median of {rounds} runs")
    print_table(("stage", "ms", "share"), _times(timings))
    typer.echo(f"recall@{explained.k} against {explained.reference}")
    print_table(("step", "lost", "left", "how"), _steps(explained))
    moved = list(_documents(explained))
    if moved:
        print_table(("step", "what", "id", "rank before", "rank after", "score"), moved)
    typer.echo(f"lost {explained.whole:.3f} of 1 in all: {' + '.join(_summands(explained.losses)) or 'nothing'}")
    for line in advise(explained):
        typer.echo(line)


def _times(timings: Timings) -> Iterator[tuple[str, str, str]]:
    every = {**timings.stages_ms, "other": timings.other_ms, "total": timings.total_ms}
    for name, ms in every.items():
        yield name, f"{ms:.4f}", f"{ms / timings.total_ms:.0%}" if timings.total_ms else ""


def _steps(explained: Explanation) -> Iterator[tuple[str, str, str, str]]:
    for step in STEPS:
        loss = explained.loss(step)
        if loss is not None:
            yield step, f"{loss.points:.3f}", f"{loss.overlap:.3f}", loss.note
        else:
            yield step, "unknown" if step in explained.chain.unknown else "none", "", explained.reason(step)


def _documents(explained: Explanation) -> Iterator[tuple[object, ...]]:
    for loss in explained.losses:
        for what, rows in (("lost", loss.lost), ("won back", loss.won)):
            for moved in rows:
                told = "tied" if moved.tied else what
                after = moved.after if moved.after is not None else "not found"
                yield loss.step, told, explained.ids[moved.row], moved.before or "", after, f"{moved.score:.4f}"


def _summands(found: Sequence[Loss]) -> list[str]:
    return [f"{loss.step} {loss.points:.3f}" for loss in found if loss.points]
