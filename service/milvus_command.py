"""``python -m service milvus``: the collections of snapshots on a Milvus server, and dropping those of removed ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.errors import SettingsError
from service.settings import Settings, flag, variable
from service.settings_milvus import milvus_server
from snapshot.errors import LibraryMissingError
from snapshot.manifest import collection_name
from snapshot.registry import Registry

if TYPE_CHECKING:  # it takes a second, and is an extra
    from service.engines.milvus_wire import Wire

_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection there.

    Attributes:
        snapshot: whose it is, as far as the registry knows; None else: another registry's, one being built, or a stranger's.
        removed: the registry's history says that the snapshot was removed, and it is not there any more.
        aliases: names that point at it.
    """

    name: str
    snapshot: str | None
    removed: bool
    aliases: tuple[str, ...]

    def describe(self) -> str:
        """A line of the list."""
        state = "no snapshot of this registry" if self.snapshot is None else "removed" if self.removed else "published"
        return f"{self.name}\t{state}" + (f"\taliases: {', '.join(self.aliases)}" if self.aliases else "")


def collections(settings: Settings) -> list[Collection]:
    """All collections of the server, by name; raises EngineError."""
    with _wire(settings) as wire:
        return list(_collections(settings, wire))


def drop_removed(settings: Settings, *, dry_run: bool) -> Iterator[str]:
    """Drop the collections of snapshots that ``gc`` has removed; a line about each that was, or would be.

    One that an alias points at is kept: whoever reads it by that name would find nothing.
    """
    with _wire(settings) as wire:
        for found in _collections(settings, wire):
            if not found.removed:
                continue
            if found.aliases:
                yield f"{found.name}: kept, {', '.join(found.aliases)} points at it; move the alias first"
                continue
            if not dry_run:
                wire.drop(found.name, _SECONDS)
            yield f"{found.name}: {'would be dropped' if dry_run else 'dropped'}, {found.snapshot} was removed"


def _collections(settings: Settings, wire: Wire) -> Iterator[Collection]:
    registry = Registry(settings.registry)
    there = registry.ids()
    removed = {event.snapshot for event in registry.history() if event.action == "remove"} - set(there)
    known = {collection_name(each): each for each in [*removed, *there]}
    for name in wire.collections(_SECONDS):
        snapshot = known.get(name)
        yield Collection(name, snapshot, snapshot in removed, tuple(wire.aliases(name, _SECONDS)))


@contextmanager
def _wire(settings: Settings) -> Iterator[Wire]:
    if settings.milvus_uri is None:
        raise SettingsError(f"milvus_uri: say which server (set {flag('milvus_uri')} or {variable('milvus_uri')})")
    try:
        from service.engines.milvus_wire import Wire  # as above
    except ImportError as error:
        raise LibraryMissingError(f"this needs the extra milvus ({error}); pip install 'scalingnote[milvus]'") from error
    wire = Wire(milvus_server(settings))
    try:
        yield wire
    finally:
        wire.close()
