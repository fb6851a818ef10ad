"""What a recipe may say of encoding by Ray; its section is ``ray``. What is encoded does not depend on it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from offline.config import Config, PositiveInt


class RayConfig(Config):
    """``--runner ray``: which cluster, and what one shard takes of it."""

    address: str | None = None
    """Of a cluster, such as ``10.0.0.1:6379``, or ``auto`` for one that this machine is part of; one of this machine alone is
    started, and ended with the run, unless given."""
    workers: PositiveInt = 2
    """Shards that are encoded at a time, where the cluster has as many places."""
    cpus: Annotated[float, Field(gt=0.0)] = 1.0
    """Cores that one shard takes, and threads of torch with it."""
    gpus: Annotated[float, Field(ge=0.0)] = 0.0
    """GPUs that one shard takes: 1 for one of its own, 0.5 for half a one; it is put where there are so many."""
    store: str | None = None
    """Of an object store or folder, such as ``s3://bucket/prefix``: the tower and the texts reach workers by it, and the vectors
    come back by it. Nodes need no common file system then; credentials and endpoint come from the environment of each."""
    retries: Annotated[int, Field(ge=0)] = 3
    """So often a shard is begun again whose worker or node died."""
