"""Folders that are made once: each has a receipt with the digest of what it was made from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline.progress import say
from snapshot.files import write_text

_RECEIPT = "receipt.json"


@dataclass(frozen=True)
class Cache:
    """Results below ``root``. A kill loses the folder under way and no other."""

    root: Path

    def folder(self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder ``root/name``, filled by ``make`` unless it was already, from the same ``inputs`` (JSON)."""
        target = self.root / name
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        if _receipt(target) == digest:
            return target
        say(f"making {target}")
        partial = self.root / f".{name}.partial"
        for stale in (partial, target):
            shutil.rmtree(stale, ignore_errors=True)
        partial.mkdir(parents=True)
        make(partial)
        write_text(partial / _RECEIPT, json.dumps({"inputs": inputs, "digest": digest}, indent=2))
        partial.rename(target)
        return target


def _receipt(folder: Path) -> str | None:
    try:
        found = json.loads((folder / _RECEIPT).read_text(encoding="utf-8"))["digest"]
    except FileNotFoundError:
        return None
    return str(found)
