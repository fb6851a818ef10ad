"""An index in several files, built by ``offline.sharded`` over any vectors, for tests of the service."""

from __future__ import annotations

import shutil
from pathlib import Path

import faiss
import numpy as np

from offline.encoded import Vectors
from offline.ranking import Floats
from offline.sharded import build, sizes_of
from offline.sharded_config import ShardedConfig
from snapshot.manifest import Effort, ShardedIndex

PART_ROWS = 240


def make_shards(vectors: Floats, folder: Path, refine_factor: int = 8, **changes: object) -> ShardedIndex:
    """Write an index in files of 240 rows into ``folder``, and say what the manifest says about it.

    What was trained stays there too; where it is there already, it is used.
    Codes are RaBitQ where there are too few rows to train others; ``changes`` are those of the recipe's section ``sharded``.
    """
    encoded = folder.with_name(f"{folder.name}-encoded")
    encoded.mkdir(parents=True)
    np.save(encoded / "00000.npy", vectors)
    codes = "opq" if len(vectors) >= 256 else "rabitq"
    config = ShardedConfig(**{"part_rows": PART_ROWS, "codes": codes, "refine": "fp32"} | changes)
    sizes = sizes_of(config, refine_factor, *vectors.shape)
    faiss.omp_set_num_threads(1)  # several wait for each other where other work runs
    build(config, sizes, Vectors(encoded), folder)
    shutil.rmtree(encoded)
    most = sizes["nlist"]
    efforts = tuple(Effort(effort=probes, recall_at_10=1.0, p50_ms=0.1, p99_ms=0.2) for probes in sorted({1, most}))
    return ShardedIndex(reason="toy", default_effort=most, efforts=efforts, **sizes)
