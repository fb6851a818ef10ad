"""What a recipe may say of an index in several files; its section is ``sharded``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from offline.config import Config, PositiveInt


class ShardedConfig(Config):
    """An index in several files (``index.kind = "sharded"``), built without having all vectors in memory."""

    least_rows: PositiveInt = 20_000_000
    """``index.kind = "auto"`` makes this kind of index for more documents than so many."""
    part_rows: Annotated[int, Field(ge=8, multiple_of=8)] = 1_000_000
    """Of each file; one is in memory while it is built: ``refine``'s bytes a number, then the codes."""
    codes: Literal["opq", "rabitq"] = "rabitq"
    """In the lists: RaBitQ (arXiv 2405.12497) after a random rotation, or product quantisation after a learned one, which
    found no more, took nine times as long to build and half as long again to search (docs/log.md)."""
    pq_bytes: PositiveInt | None = None
    """Of a vector's code with ``opq``, a divisor of the width; the largest up to a quarter of the width unless given."""
    rabitq_bits: Annotated[int, Field(ge=1, le=8)] = 2
    """For each number of a vector with ``rabitq``."""
    lists: PositiveInt | None = None
    """4 sqrt(documents) unless given, and no more than their training points can place."""
    points_per_list: PositiveInt = 40
    """Vectors that the lists' centroids are trained on, for each; all of them are in memory then."""
    refine: Literal["fp32", "fp16", "int8"] = "fp16"
    """How whole vectors are kept, of which a search reads ``index.refine_factor`` for each hit. fp16: at 384 numbers, scores
    move by some 2e-5. An incremental snapshot, and a new student for the same index, need a parent with fp32."""
