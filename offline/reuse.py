"""The walk of ``pack --reuse-index PARENT``: a new student for documents that are searched already.

Distillation leaves the document space as it is, so the parent's index and documents are linked into the new snapshot. What
depends on the student is made anew: graph, effort table, golden set, and the evaluation (without the baselines, which no
student changes). The stages write what those of the whole walk write, over the parent's rows in place of the prepared ones:
the parent may be an incremental snapshot of later documents.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from offline import evaluate, export, index, refine
from offline.append import sizes_in
from offline.assemble import Content, assemble
from offline.data.prepared import TOWER_TEXTS, Prepared, write_table
from offline.encode import parts_of, write_shard
from offline.encoded import SHARDS, SPACE, Vectors, load_space
from offline.index import Plan, Ruler, load_description
from offline.pack import STAGE as PACK
from offline.pack import make_probes, read_retention, report_files
from offline.parent import Parent, check_space, check_texts, list_files, on_parent, parent_of
from offline.progress import track
from offline.stages import Job, Stage, Summary
from offline.teacher import bring_teacher
from snapshot.documents import columns_of
from snapshot.files import link_or_copy, write_text
from snapshot.manifest import Column
from snapshot.verify import verify

_TABLES = ("queries.arrow", "texts.arrow")
_BLOCK_ROWS = 65_536


def take_documents(job: Job) -> Summary:
    """Verify the parent, and write the prepared tables over its rows: queries as they are, judgements by document id.

    Raises:
        SnapshotError: the parent is damaged, or its vectors are of another space than the trained document tower's.
        ParentError: the recipe renders documents in another way.
    """
    parent, prepared = parent_of(job.source), Prepared(job.inputs["prepare"])
    verify(parent.layout.root)
    check_texts(parent, job.recipe.text.document)
    check_space(parent, job.inputs["train"] / "document_tower", job.recipe)
    for name in _TABLES:
        (job.folder / name).unlink(missing_ok=True)
        link_or_copy(prepared.folder / name, job.folder / name)
    write_table(parent.documents.select(["id"]), job.folder / "documents.arrow")
    write_table(_texts(parent, prepared), job.folder / "tower_texts.arrow")
    write_table(_moved(prepared.pairs, prepared, parent), job.folder / "pairs.arrow")
    judged = _moved(prepared.qrels, prepared, parent)
    write_table(judged, job.folder / "qrels.arrow")
    lost = prepared.qrels.num_rows - judged.num_rows
    return {"parent": parent.manifest.id, "documents": parent.documents.num_rows, "judgements of dropped documents": lost or None}


def _texts(parent: Parent, prepared: Prepared) -> pa.Table:
    """Titles and texts by the parent's rows: as they are prepared, or, of documents that the data lacks, as they are stored.

    The report reads them: examples say titles, and slices in how many documents a word stands.
    """
    rows = pc.index_in(parent.documents.column("id"), value_set=prepared.documents.column("id").combine_chunks())
    columns = {}
    for name in TOWER_TEXTS.names:
        ours = prepared.tower_texts.column(name).take(rows)
        stored = parent.documents.column(name) if name in parent.documents.column_names else pa.scalar("")
        columns[name] = pc.coalesce(ours, stored, pa.scalar(""))
    return pa.table(columns, schema=TOWER_TEXTS)


def _moved(table: pa.Table, prepared: Prepared, parent: Parent) -> pa.Table:
    """Judgements or pairs with the parent's rows; those of documents that it lacks are left out."""
    ids = prepared.documents.column("id").take(table.column("row"))
    rows = pc.index_in(ids, value_set=parent.documents.column("id").combine_chunks())
    place = table.schema.get_field_index("row")
    moved = table.set_column(place, table.schema.field(place), rows.cast(table.schema.field(place).type))
    return moved.filter(pc.is_valid(rows))


def take_vectors(job: Job) -> Summary:
    """The parent's document vectors, read back exactly from its index."""
    parent = parent_of(job.source)
    rows = parent.manifest.documents.count
    (job.folder / SHARDS).mkdir(exist_ok=True)
    for part in track(parts_of(rows, _BLOCK_ROWS), "vectors out of the index, blocks"):
        write_shard(job.folder / SHARDS, part, parent.vectors(np.arange(part.start, part.start + part.rows)))
    write_text(job.folder / SPACE, parent.manifest.space.model_dump_json(indent=2))
    return {"documents": rows, "dim": parent.manifest.space.dim, "space": parent.manifest.space.fingerprint[:12]}


def link_index(job: Job) -> Summary:
    """The parent's index files, linked, with an effort table measured with the new student's queries."""
    parent, vectors = parent_of(job.source), Vectors(job.inputs["encode"] / SHARDS)
    before = parent.manifest.index
    for path in parent.layout.index_files(before.files):
        (job.folder / path.name).unlink(missing_ok=True)
        link_or_copy(path, job.folder / path.name)
    plan = Plan(parent.file_kind, sizes_in(before), f"{before.kind}: that of {parent.manifest.id}, for the same documents")
    index.write_description(Ruler.make(job, vectors).describe(job.folder, plan), job.folder)
    return index.summary(load_description(job.folder), len(vectors))


def pack(job: Job) -> Summary:
    """Seal the new student with the parent's documents and index, linked; ``parent`` is set."""
    parent = parent_of(job.source)
    return assemble(
        job,
        Content(
            space=load_space(job.inputs["encode"]),
            vectors=Vectors(job.inputs["encode"] / SHARDS),
            documents=parent.documents.num_rows,
            write_documents=lambda folder: _link_documents(parent, folder),
            text_hashes=None,
            probes=make_probes(job),
            report=report_files(job),
            retention=read_retention(job),
            parent=parent.manifest.id,
            bring_teacher=partial(bring_teacher, job),
        ),
    )


def _link_documents(parent: Parent, folder: Path) -> tuple[Column, ...]:
    for path in list_files(parent.layout.documents):
        link_or_copy(path, folder / path.relative_to(parent.layout.documents))
    return columns_of(parent.documents.schema)


STAGES = {
    "prepare": Stage(name="reuse/prepare", run=take_documents, needs=("prepare", "train"), sections=("text",), outside=on_parent),
    "encode": Stage(name="reuse/encode", run=take_vectors, needs=("reuse/prepare",), outside=on_parent),
    "refine": replace(
        refine.STAGE, name="reuse/refine", needs=("reuse/prepare", "train", "distill", "reuse/encode"), outside=on_parent
    ),
    "export": replace(
        export.STAGE, name="reuse/export", needs=("reuse/prepare", "train", "reuse/encode", "reuse/refine"), outside=on_parent
    ),
    "index": replace(
        index.STAGE,
        name="reuse/index",
        run=link_index,
        needs=("reuse/prepare", "reuse/export", "reuse/encode"),
        outside=on_parent,
    ),
    "evaluate": replace(
        evaluate.STAGE,
        name="reuse/evaluate",
        run=lambda job: evaluate.run(job, baselines=False),
        needs=("reuse/prepare", "train", "distill", "reuse/refine", "reuse/export", "reuse/encode", "reuse/index"),
    ),
    "pack": replace(
        PACK,
        run=pack,
        needs=("reuse/prepare", "train", "reuse/refine", "reuse/export", "reuse/encode", "reuse/index", "reuse/evaluate"),
        outside=lambda recipe, source: {"name": recipe.name, **on_parent(recipe, source)},
    ),
}
