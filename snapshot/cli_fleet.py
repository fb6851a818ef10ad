"""``python -m snapshot fleet``, and ``activate --wave``: several services, each by its own address."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from snapshot.cli import JsonOption, age, age_seconds, print_json, print_table
from snapshot.errors import FleetError, ReasonMissingError, ReplicaError
from snapshot.files import read_secret
from snapshot.fleet import Replica, Seen, agree, check_distinct, look_at, replicas
from snapshot.registry import Registry
from snapshot.remote import Remote
from snapshot.waves import Order, Rollout, parse_waves

_SERVICE_HELP = "A service's own address, not a balancer's; again for each. A name with several addresses is all of them."
ServiceOption = Annotated[list[str], typer.Option("--service", metavar="URL", help=_SERVICE_HELP)]
_DISAGREE = 1


@dataclass(frozen=True, slots=True)
class WaveOptions:
    """How ``activate`` was asked to go in waves."""

    waves: str
    services: Sequence[str]
    token_file: Path | None
    wait_seconds: float
    watch_seconds: float
    remote: str | None


def fleet(service: ServiceOption, as_json: JsonOption = False) -> None:
    """Which service wants and serves what, in which state. Exit code 1 where they do not all serve the same."""
    found = replicas(service)
    seen = look_at(found)
    check_distinct(found, seen)
    is_one = agree(seen)
    if as_json:
        rows = [{"url": replica.url, **_described(one)} for replica, one in zip(found, seen, strict=True)]
        print_json({"agree": is_one, "services": rows})
    else:
        headings = ("service", "serving", "desired", "state", "age", "version", "in flight", "remark")
        print_table(headings, (_cells(replica, one) for replica, one in zip(found, seen, strict=True)))
        typer.echo(f"{len(found)} services serve the same" if is_one else "they do not all serve the same")
    if not is_one:
        raise typer.Exit(_DISAGREE)


def activate_in_waves(snapshot_id: str, registry: Path, why: str, options: WaveOptions, *, force: bool) -> None:
    """Bring a snapshot to services in waves, and declare it once they all serve it.

    Raises:
        FleetError: what is asked makes no sense; nothing was done.
        ReasonMissingError: the same, forced without a reason.
        WaveError: a service failed; all go back, and what is desired has not changed.
    """
    if force and not why.strip():
        raise ReasonMissingError("overruling the gate needs a reason; say it with: --why TEXT")
    token = _token(options.token_file)
    found = replicas(options.services)
    if not found:
        raise FleetError("--wave needs the services; name each with: --service http://HOST:8000")
    sizes = parse_waves(options.waves, len(found))
    order = Order(snapshot_id, why, force, token, options.wait_seconds, options.watch_seconds)
    Rollout(order, found, lambda line: typer.echo(line, err=True)).go(sizes, lambda: _declare(order, registry, options.remote))


def _declare(order: Order, registry: Path, remote: str | None) -> None:
    if remote is None:
        Registry(registry).activate(order.snapshot, order.why, force=order.force)
    else:
        Remote(remote).activate(order.snapshot, order.why, force=order.force)


def _token(path: Path | None) -> str:
    if path is None:
        raise FleetError(
            "--wave needs an operator's token; make one with: python -m service token NAME, and name its file: --token-file"
        )
    try:
        return read_secret(path)
    except (OSError, ValueError) as error:
        raise FleetError(
            f"{path}: holds no token ({error}); it is the secret that was printed by: python -m service token NAME"
        ) from error


def _described(one: Seen | ReplicaError) -> dict[str, object]:
    if isinstance(one, ReplicaError):
        return {"unreachable": str(one)}
    return {**asdict(one), "age_seconds": one.created_at and round(age_seconds(one.created_at), 1), "unreachable": None}


def _cells(replica: Replica, one: Seen | ReplicaError) -> tuple[object, ...]:
    if isinstance(one, ReplicaError):
        return (replica.url, "", "", "unreachable", "", "", "", str(one))
    old = "" if one.created_at is None else age(age_seconds(one.created_at))
    return (
        replica.url,
        one.serving or "",
        one.desired or "",
        one.state,
        old,
        one.version,
        one.in_flight,
        " ".join(_remarks(one)),
    )


def _remarks(one: Seen) -> Iterator[str]:
    if one.tries is not None:
        yield f"tries {one.tries} ahead of its registry."
    if one.error is not None:
        yield f"{one.error_code}: {one.error}."
    if one.engine_error is not None:
        yield f"no search is answered: {one.engine_error}."
    if one.remote_error is not None:
        yield f"remote: {one.remote_error}"
