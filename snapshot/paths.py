"""Which ids and which paths in a manifest are names inside the registry, on this machine and on any other."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

from snapshot.errors import RegistryError, UnsafePathError
from snapshot.layout import MANIFEST, SIGNATURE, Layout

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
MAX_PATH = 512
"""Characters in a path inside a snapshot."""
_RESERVED_IDS = frozenset({"current", "history.jsonl", "pins"})
_RESERVED_PATHS = frozenset({MANIFEST, SIGNATURE})
_UNSAFE = re.compile(r"[\\:*?\"<>|\x00-\x1f\x7f-\x9f]")
"""Separators, streams and wildcards of some file system, and control characters."""


def is_id(text: str) -> bool:
    """Whether ``text`` can be a snapshot's id: the name of one folder, and of none of the registry's own files."""
    return re.fullmatch(ID_PATTERN, text) is not None and text.casefold() not in _RESERVED_IDS


def refuse_snapshot(root: Path) -> None:
    """RegistryError where what is to be a registry's folder is a snapshot: one file more in it, and it is damaged."""
    layout = Layout(root)
    try:
        is_one = layout.manifest.is_file() and layout.model.is_file()
    except OSError:
        return
    if is_one:
        raise RegistryError(f"{root}: a snapshot, and no registry; name the folder that it is in: {root.parent}")


def check_paths(names: Collection[str], where: object) -> None:
    """Refuse a manifest's list of files that could mean anything outside the snapshot's folder.

    Args:
        names: paths relative to the snapshot's folder.
        where: the manifest, for the message.

    Raises:
        UnsafePathError: a path is absolute, has ``..``, a backslash, a control character or another name that some file
            system understands in its own way; is the manifest's or the signature's own; or is another one of the list
            once case is folded, or lies below one.
    """
    folded = {_folded(name): name for name in names}
    for name in names:
        fault = _fault(name) or _clash(name, folded)
        if fault:
            raise UnsafePathError(f"{where}: files: the path {name[:120]!r} {fault}; do not use this snapshot")


def _fault(name: str) -> str | None:
    parts = name.split("/")
    if not name or len(name) > MAX_PATH or any(len(part.encode("utf-8", "replace")) > 255 for part in parts):
        return "is empty or too long"
    if name.startswith("/"):
        return "is absolute"
    if ".." in parts:
        return "leaves the snapshot"
    if any(part in ("", ".") or part != part.strip() or part.endswith(".") for part in parts):
        return "has a part that is empty, a dot, or begins or ends with space or dot"
    if _UNSAFE.search(name) or unicodedata.normalize("NFC", name) != name or not _encodable(name):
        return "has a character that is not the same name everywhere"
    return None


def _clash(name: str, folded: dict[str, str]) -> str | None:
    own = _folded(name)
    parts = own.split("/")
    above = ["/".join(parts[:end]) for end in range(1, len(parts))]
    if not _RESERVED_PATHS.isdisjoint([own, *above]):
        return "is the manifest's or its signature's own"
    if folded[own] != name:
        return f"differs from {folded[own][:120]!r} in case only"
    file = next((upper for upper in above if upper in folded), None)
    return f"lies below the file {file[:120]!r}" if file else None


def _encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())
