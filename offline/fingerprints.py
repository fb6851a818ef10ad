"""What a backbone's files hold, so that a stage built on others is not taken for finished."""

from __future__ import annotations

import hashlib
from pathlib import Path

from offline.backbones import resolve_backbone
from offline.errors import BackboneError
from snapshot.files import sha256


def backbone_fingerprint(name: str) -> str:
    """The commit of a backbone from the model hub; else the hex sha256 over its files' paths and bytes, hidden ones left out.

    Raises:
        BackboneError: it cannot be found, or a file of it cannot be read.
    """
    folder = resolve_backbone(name)
    if folder.parent.name == "snapshots" and folder != Path(name).expanduser():
        return folder.name  # the hub's cache: .../snapshots/COMMIT, whose files never change
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            digest.update(f"{inside.as_posix()}\n{_hash(path)}\n".encode())
    return digest.hexdigest()


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise BackboneError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
