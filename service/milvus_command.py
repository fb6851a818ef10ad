"""``python -m service milvus``: the collections of snapshots on a Milvus server, and dropping those of removed ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.errors import SettingsError
from service.settings import Settings, flag, variable
from service.settings_milvus import milvus_server
from snapshot.errors import LibraryMissingError, RegistryError
from snapshot.manifest import collection_name
from snapshot.pointer import read_current
from snapshot.registry import Registry
from snapshot.stores import folder_of, is_folder, open_store

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


def removed(settings: Settings, others: Sequence[str]) -> Iterator[str]:
    """A line about each collection of a snapshot that ``gc`` has removed here: how to drop it, or why it stays."""
    with _wire(settings) as wire:
        for found in _collections(settings, wire):
            if found.snapshot is not None and found.removed:
                why = _held(found, _places(settings, others))
                yield f"{found.name}: {f'kept, {why}' if why else f'{found.snapshot} was removed; --drop {found.snapshot}'}"


def drop(settings: Settings, ids: Sequence[str], others: Sequence[str], *, dry_run: bool) -> Iterator[str]:
    """Drop the collections of these snapshots; a line about each that was, or would be.

    A push, a pull or a copy of a folder brings a snapshot to another registry, and both go by one collection. No registry knows
    of all others, so nothing is dropped that is not named, and nothing at all where one of those named must stay.

    Raises:
        SettingsError: one has no collection there, was not removed from this registry, is in another, or an alias points at it.
        RegistryError, RemoteError: one of the others does not say what it has.
    """
    with _wire(settings) as wire:
        there = {found.snapshot: found for found in _collections(settings, wire)}
        for each in ids:
            why = (
                _held(there[each], _places(settings, others))
                if each in there
                else "it has no collection there, or none of this registry"
            )
            if why:
                raise SettingsError(f"--drop {each}: {why}; nothing was dropped")
        for each in dict.fromkeys(ids):
            if not dry_run:
                wire.drop(there[each].name, _SECONDS)
            yield f"{there[each].name}: {'would be dropped' if dry_run else 'dropped'}, {each} was removed"


def _places(settings: Settings, others: Sequence[str]) -> list[str]:
    """Other registries: those that are named, and the one that a service with these settings follows."""
    return [*others, *([] if settings.remote_registry is None else [settings.remote_registry])]


def _held(found: Collection, places: Sequence[str]) -> str | None:
    """Why it must stay; None where nothing says so."""
    if found.snapshot is None or not found.removed:
        return "this registry's history does not say that it was removed"
    if found.aliases:
        return f"{', '.join(found.aliases)} points at it; move the alias first"
    return next((f"{place} has or wants it" for place in places if _has(place, found.snapshot)), None)


def _has(place: str, snapshot: str) -> bool:
    """Whether another registry has the snapshot, or wants it; RegistryError or RemoteError where it does not say."""
    if is_folder(place):
        there = Registry(folder_of(place))
        current, ids = there.current(), there.ids()
    else:
        store = open_store(place)
        current, ids = read_current(store), store.folders()
    if current is None and not ids:
        raise RegistryError(f"--also-registry {place}: no registry, or an empty one; check the address and the mount")
    return snapshot in (current, *ids)


def _collections(settings: Settings, wire: Wire) -> Iterator[Collection]:
    registry = Registry(settings.registry)
    there = registry.ids()
    gone = {event.snapshot for event in registry.history() if event.action == "remove"} - set(there)
    known = {collection_name(each): each for each in [*gone, *there]}
    for name in wire.collections(_SECONDS):
        snapshot = known.get(name)
        yield Collection(name, snapshot, snapshot in gone, tuple(wire.aliases(name, _SECONDS)))


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
