"""Documents through the document tower, in fixed shards with a receipt each: a killed run repeats at most one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from sentence_transformers import SentenceTransformer

from offline import towers
from offline.data.prepared import Prepared
from offline.encoded import SHARDS, SPACE
from offline.errors import EncodingError
from offline.progress import say
from offline.ranking import Floats, Rows
from offline.recipe import Recipe
from offline.runners import Runner, make_runner
from offline.stages import Job, Stage, Summary
from snapshot.files import atomic_write, sha256, write_text
from snapshot.manifest import Space, TextSpec
from snapshot.text import render

_LENGTH_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Part:
    """Shard ``number`` holds ``rows`` documents from row ``start`` on."""

    number: int
    start: int
    rows: int

    @property
    def file(self) -> str:
        return f"{self.number:05}.npy"


@dataclass(frozen=True)
class ShardTask:
    """All that encoding one shard needs.

    Attributes:
        documents: fields ``title`` and ``text`` of its rows.
        progress: what to call the work while its progress is shown.
    """

    part: Part
    documents: Sequence[Mapping[str, str]]
    tower: Path
    fingerprint: str
    spec: TextSpec
    batch_size: int
    progress: str


def encode_shard(task: ShardTask) -> Floats:
    """Vectors float32[rows, dim] of one shard; depends on nothing but its argument."""
    tower = _tower(task.tower, task.fingerprint)
    texts = [render(task.spec, row) for row in task.documents]
    return towers.encode(tower, task.spec, texts, task.batch_size, task.progress)


def run(job: Job, runner: Runner | None = None) -> Summary:
    """Encode the shards that have no valid receipt yet.

    Raises:
        EncodingError: the tower gives a vector that is not finite or not of length 1; names the document.
    """
    prepared = Prepared(job.inputs["prepare"])
    tower = job.inputs["train"] / "document_tower"
    fingerprint = towers.space_fingerprint(tower, job.recipe.text.document)
    work = Encoding(prepared, np.arange(prepared.tower_texts.num_rows), tower, fingerprint)
    parts = encode_rows(work, job.recipe, job.folder / SHARDS, runner or make_runner(job.source.runner, job.recipe.ray))
    dim = int(np.load(job.folder / SHARDS / parts[0].file, mmap_mode="r").shape[1])
    write_text(job.folder / SPACE, Space(fingerprint=fingerprint, dim=dim).model_dump_json(indent=2))
    return {"documents": prepared.tower_texts.num_rows, "dim": dim, "shards": len(parts), "space": fingerprint[:12]}


@dataclass(frozen=True)
class Encoding:
    """Which rows int64[n] of the prepared documents go through which document tower."""

    prepared: Prepared
    rows: Rows
    tower: Path
    fingerprint: str

    @cached_property
    def texts(self) -> pa.Table:
        """``TOWER_TEXTS`` of the rows."""
        whole = self.prepared.tower_texts
        return whole if len(self.rows) == whole.num_rows else whole.take(self.rows)

    def name(self, place: int) -> str:
        """The row in place ``place``, for messages."""
        row = int(self.rows[place])
        return f"document row {row} (id {self.prepared.documents.column('id')[row].as_py()!r})"


def encode_rows(work: Encoding, recipe: Recipe, shards: Path, runner: Runner) -> list[Part]:
    """Encode the shards of those rows that have no valid receipt in the folder ``shards`` yet.

    Raises:
        EncodingError: as ``run``.
    """
    shards.mkdir(exist_ok=True)
    parts = parts_of(len(work.rows), recipe.encode.shard_rows)
    missing = [part for part in parts if not _is_done(shards, part)]
    if len(missing) < len(parts):
        say(f"  {len(parts) - len(missing)} of {len(parts)} shards are there already")
    for task, vectors in runner.run(encode_shard, _Tasks(missing, len(parts), work, recipe)):
        _check(vectors, task.part, work)
        write_shard(shards, task.part, vectors)
    _tower.cache_clear()
    return parts


@lru_cache(maxsize=1)
def _tower(folder: Path, fingerprint: str) -> SentenceTransformer:  # noqa: ARG001  # part of the key: other weights, other tower
    """The tower of the last call stays loaded until the run ends: a process encodes many shards of it."""
    return towers.load_tower(folder)


def parts_of(rows: int, size: int) -> list[Part]:
    return [Part(number, start, min(size, rows - start)) for number, start in enumerate(range(0, rows, size))]


@dataclass(frozen=True)
class _Tasks:
    """Those of the shards ``missing``; their texts are read when their turn comes."""

    missing: Sequence[Part]
    parts: int
    work: Encoding
    recipe: Recipe

    def __len__(self) -> int:
        return len(self.missing)

    def __iter__(self) -> Iterator[ShardTask]:
        return (_task(part, self.parts, self.work, self.recipe) for part in self.missing)


def _task(part: Part, parts: int, work: Encoding, recipe: Recipe) -> ShardTask:
    rows = tuple(work.texts.slice(part.start, part.rows).to_pylist())
    progress = f"encode, shard {part.number + 1} of {parts}, batches"
    return ShardTask(part, rows, work.tower.resolve(), work.fingerprint, recipe.text.document, recipe.encode.batch_size, progress)


def _check(vectors: Floats, part: Part, work: Encoding) -> None:
    lengths = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE))  # a comparison with NaN is false
    if len(bad):
        raise EncodingError(
            f"{work.name(part.start + int(bad[0]))}: the document tower gives a vector of length {lengths[bad[0]]:.3g} where 1 "
            f"is due, as for {len(bad)} of {part.rows} documents of its shard; train with a lower learning rate"
        )


def write_shard(shards: Path, part: Part, vectors: Floats) -> None:
    """Vectors first: a receipt without them never stands."""
    path = shards / part.file
    with atomic_write(path) as handle:
        np.save(handle, vectors)
    write_text(path.with_suffix(".json"), json.dumps({**asdict(part), "sha256": sha256(path)}))


def _is_done(shards: Path, part: Part) -> bool:
    path = shards / part.file
    try:
        receipt = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return bool(receipt == {**asdict(part), "sha256": sha256(path)})
    except (OSError, ValueError):
        return False


STAGE = Stage(name="encode", run=run, needs=("prepare", "train"), sections=("text", "encode"))
