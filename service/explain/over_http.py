"""``explain --url``: what a running service says of one query. The encoder's part needs the snapshot itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import typer

from service.ask import Asker
from service.errors import FieldError, InvalidRequestError, UnreachableError
from service.explain.question import Question
from snapshot.cli import print_json, print_table
from snapshot.printable import printable

_EXACT_MS = 60_000.0
"""Exact search may take longer than any search is to; the service caps this at its max_timeout_ms."""
_KEY = "; name a file that holds an API key which may search with --key-file"
_REMEMBERED = "vector remembered: encode not done"
_NOT_KNOWN = "what encoder and int8 lost is known to the snapshot only: explain it by --registry"


@dataclass(frozen=True, slots=True)
class Answers:
    """A search as users get it, and the same compared with every eligible document.

    Attributes:
        remembered: its vector was, from an earlier search, so that it was not encoded.
        timings_ms: by stage, with ``total``.
        round_trip_ms: what the caller waited.
        degraded: what was given up for want of time; None where nothing was.
        lost: ids of the exact answer that the other one does not have, best first.
        points: share of the exact answer that they are; 0 where it is empty.
    """

    query: str
    snapshot: str
    remembered: bool
    timings_ms: dict[str, float]
    round_trip_ms: float
    degraded: dict[str, Any] | None
    hits: list[str]
    lost: list[str]
    points: float


def explain_service(asker: Asker, question: Question) -> Answers:
    """Search twice.

    Raises:
        InvalidRequestError: an effort is asked for, which a service chooses itself.
        UnreachableError: the service cannot be asked, or refuses; a swap came between both searches.
    """
    if question.effort is not None:
        raise InvalidRequestError(FieldError("effort", "a running service plans its own; explain an effort by --registry"))
    body: dict[str, Any] = {"query": question.query, "k": question.k}
    body |= {} if question.filter is None else {"filter": question.filter}
    timed = body if question.timeout_ms is None else {**body, "timeout_ms": question.timeout_ms}
    found, seconds = _search(asker, timed)
    truth, _ = _search(asker, {**body, "exact": True, "timeout_ms": _EXACT_MS})
    if found["snapshot"] != truth["snapshot"]:
        raise UnreachableError(f"{asker.url}: {truth['snapshot']} came to serve meanwhile; ask again")
    hits, best = ([str(hit["id"]) for hit in answer["hits"]] for answer in (found, truth))
    lost = [one for one in best if one not in set(hits)]
    points = len(lost) / len(best) if best else 0.0
    timings = found["timings_ms"]
    remembered = "encode" not in timings
    return Answers(question.query, found["snapshot"], remembered, timings, seconds * 1000, found["degraded"], hits, lost, points)


def show_answers(answers: Answers, as_json: bool) -> None:
    """Print them."""
    if as_json:
        print_json({**asdict(answers), "unknown": _NOT_KNOWN})
        return
    typer.echo(f"{printable(answers.query)!r} on {answers.snapshot}")
    rows = [(name, f"{ms:.3f}") for name, ms in [*answers.timings_ms.items(), ("round trip", answers.round_trip_ms)]]
    print_table(("stage", "ms"), rows)
    if answers.remembered:
        typer.echo(_REMEMBERED)
    typer.echo(f"lost by index and filter: {answers.points:.3f} of 1 {', '.join(map(printable, answers.lost))}".rstrip())
    if answers.degraded is not None:
        causes, recall = answers.degraded["causes"], answers.degraded["expected_recall"]
        typer.echo(f"degraded by {', '.join(causes)}: recall {recall:.3f} is expected of this effort; allow more by timeout_ms")
    typer.echo(_NOT_KNOWN)


def _search(asker: Asker, body: dict[str, Any]) -> tuple[dict[str, Any], float]:
    reply = asker.post("/search", body)
    answer = reply.json()
    if reply.status != 200:
        said = f"{reply.url}: HTTP {reply.status} {answer.get('code', '')}: {answer.get('detail', 'no reason')}"
        raise UnreachableError(said + (_KEY if reply.status in (401, 403) else ""))
    if not {"hits", "snapshot", "timings_ms", "degraded"} <= answer.keys():
        raise UnreachableError(f"{reply.url}: HTTP {reply.status}, not what this service answers: look at the URL")
    return answer, reply.seconds
