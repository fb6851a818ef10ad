"""What ``encode`` writes and later stages read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from offline.errors import StageError
from offline.ranking import Floats
from snapshot.manifest import Space

SHARDS = "shards"
SPACE = "space.json"


def load_vectors(folder: Path, shards: str = SHARDS) -> Floats:
    """All document vectors, float32[rows, dim], L2-normalised, in the order of the rows; ``shards`` is where in ``folder``."""
    paths = sorted((folder / shards).glob("*.npy"))
    if not paths:
        raise StageError(f"{folder / shards}: no vectors; run the stage encode first")
    return np.concatenate([np.load(path, mmap_mode="r") for path in paths])


def load_space(folder: Path) -> Space:
    """The space of those vectors."""
    return Space.model_validate_json((folder / SPACE).read_bytes())
