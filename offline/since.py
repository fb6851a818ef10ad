"""The walk of ``run --since PARENT``: a snapshot of changed documents, with the parent's towers and what stays of its vectors.

Nothing is trained. The parent's query tower, its golden queries and its report are taken over; of the documents only those
whose text the parent does not have are encoded. The stages write what those of the whole walk write, so that ``index`` and
``publish`` are the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from offline import append, index, prepare, publish
from offline.assemble import Content, Probes, assemble
from offline.changes import CARRIED, Changes, Documents, Hashes, compare, compare_ids, text_hashes
from offline.data.prepared import Prepared
from offline.encode import Encoding, encode_rows, parts_of, write_shard
from offline.encoded import SHARDS, SPACE, Vectors, load_space, load_vectors
from offline.errors import ParentError
from offline.exported import MODEL, REPORT, TOKENIZER
from offline.parent import Parent, check_query_texts, check_space, check_texts, list_files, on_parent, parent_of
from offline.progress import say, track
from offline.runners import Runner, make_runner
from offline.stages import Job, Source, Stage, Summary
from offline.teacher import keep_teacher
from snapshot.documents import write_documents
from snapshot.files import atomic_write, link_or_copy, write_text
from snapshot.verify import verify

CHANGES = "changes.json"
HASHES = "text_sha256.npy"
_FRESH = "fresh"


def take_over(job: Job) -> Summary:
    """Verify the parent, refuse a recipe or a document tower that does not fit it, and take over its query tower.

    Raises:
        SnapshotError: the parent is damaged, or its vectors are of another space than the document tower's.
        ParentError: the recipe renders texts in another way, or a file of the parent's is missing.
    """
    parent = parent_of(job.source)
    verify(parent.layout.root)
    check_texts(parent, job.recipe.text.document)
    check_query_texts(parent, job.recipe.text.query)
    space = check_space(parent, _tower(job.source), job.recipe)
    report = parent.layout.report / REPORT
    if not report.is_file():
        raise ParentError(f"{report}: missing, so the parent was not made by this software; make a whole snapshot first")
    for source, name in ((parent.layout.model, MODEL), (parent.layout.tokenizer, TOKENIZER), (report, REPORT)):
        (job.folder / name).unlink(missing_ok=True)
        link_or_copy(source, job.folder / name)
    return {"parent": parent.manifest.id, "documents": parent.manifest.documents.count, "space": space[:12]}


def read_data(job: Job) -> Summary:
    """As the whole walk's ``prepare``, without training pairs; judgements of documents that are not there are no fault."""
    return prepare.run(job, learn=False)


def encode(job: Job, runner: Runner | None = None) -> Summary:
    """Encode the documents that the parent does not have, and put all vectors in the order of the rows.

    Raises:
        ParentError: no id of the parent's is among the documents.
        SpaceMismatchError, EncodingError: the document tower is not the parent's; its vectors cannot be searched.
    """
    parent, prepared = parent_of(job.source), Prepared(job.inputs["prepare"])
    space = check_space(parent, _tower(job.source), job.recipe)
    hashes = text_hashes(job.recipe.text.document, prepared.tower_texts)
    changes = find_changes(parent, prepared, hashes)
    say(f"  since {parent.manifest.id}: {changes.describe()}; {changes.encoded} to encode")
    fresh = np.flatnonzero(changes.carried < 0)
    work = Encoding(prepared, fresh, _tower(job.source), space)
    if len(fresh):
        runner = runner or make_runner(job.source.runner, job.recipe.ray)
        encode_rows(work, job.recipe, job.folder / _FRESH, runner)
    _assemble(job, parent, changes)
    for name, array in ((HASHES, hashes), (CARRIED, changes.carried)):
        with atomic_write(job.folder / name) as handle:
            np.save(handle, array)
    write_text(job.folder / SPACE, parent.manifest.space.model_dump_json(indent=2))
    told = _told(parent, prepared, changes)
    write_text(job.folder / CHANGES, json.dumps(asdict(told), indent=2))
    return {**asdict(told), "space": space[:12]}


@dataclass(frozen=True)
class Told:
    """What ``changes.json`` says, in the encode folder and in the snapshot's report.

    Attributes:
        documents: of the new snapshot.
        encoded: went through the document tower.
        is_same: nothing differs, not even a stored field.
    """

    parent: str
    documents: int
    new: int
    changed: int
    unchanged: int
    dropped: int
    encoded: int
    is_same: bool

    def describe(self) -> str:
        return (
            f"{self.new} new, {self.changed} changed, {self.unchanged} carried over, {self.dropped} dropped since {self.parent} "
            f"({self.encoded} encoded)"
        )


def read_changes(work: Path) -> Told:
    """What the stage ``since/encode`` found in this work folder."""
    return Told(**json.loads((work / "since" / "encode" / CHANGES).read_text(encoding="utf-8")))


def find_changes(parent: Parent, prepared: Prepared, hashes: Hashes) -> Changes:
    """Compare the prepared documents with the parent's.

    Raises:
        ParentError: they have no id in common, which a wrong data folder has, and a daily change has not.
    """
    ids = prepared.documents.column("id").to_pylist()
    known = parent.text_hashes
    if known is None:
        say(f"warning: {parent.manifest.id} keeps no hashes of its texts: every document is encoded this once")
        changes = compare_ids(parent.ids, ids)
    else:
        changes = compare(Documents(parent.ids, known), Documents(ids, hashes))
    if changes.dropped == parent.manifest.documents.count:
        raise ParentError(
            f"none of the {changes.dropped} documents of {parent.manifest.id} is in the data; name the right folder with "
            "--data, or run without --since to replace them all"
        )
    return changes


def _tower(source: Source) -> Path:
    if source.document_tower is None:
        raise ParentError("no document tower is named; give --document-tower DIR")
    return source.document_tower


def _told(parent: Parent, prepared: Prepared, changes: Changes) -> Told:
    in_place = np.array_equal(changes.carried, np.arange(parent.manifest.documents.count))
    return Told(
        parent=parent.manifest.id,
        documents=len(changes.carried),
        new=changes.new,
        changed=changes.changed,
        unchanged=changes.unchanged,
        dropped=changes.dropped,
        encoded=changes.encoded,
        is_same=in_place and prepared.documents.equals(parent.documents, check_metadata=True),
    )


def _assemble(job: Job, parent: Parent, changes: Changes) -> None:
    """Shards as of the whole walk: carried rows as the parent has them, byte for byte, the others as they were encoded."""
    places = np.cumsum(changes.carried < 0) - 1
    encoded = load_vectors(job.folder, _FRESH) if changes.encoded else np.empty((0, parent.manifest.space.dim), np.float32)
    (job.folder / SHARDS).mkdir(exist_ok=True)
    for part in track(parts_of(len(changes.carried), job.recipe.encode.shard_rows), "carry over, shards"):
        rows = slice(part.start, part.start + part.rows)
        carried = changes.carried[rows]
        vectors = np.empty((part.rows, parent.manifest.space.dim), np.float32)
        vectors[carried >= 0] = parent.vectors(carried[carried >= 0])
        vectors[carried < 0] = encoded[places[rows][carried < 0]]
        write_shard(job.folder / SHARDS, part, vectors)


def pack(job: Job) -> Summary:
    """Seal the new documents and index with the parent's tower and golden queries; ``parent`` is set.

    The golden queries keep their vectors, which the torch tower made; their best rows are found anew by brute force.
    """
    parent, prepared = parent_of(job.source), Prepared(job.inputs["prepare"])
    table = prepared.documents
    return assemble(
        job,
        Content(
            space=load_space(job.inputs["encode"]),
            vectors=Vectors(job.inputs["encode"] / SHARDS),
            documents=table.num_rows,
            write_documents=lambda folder: write_documents(table, folder),
            text_hashes=np.load(job.inputs["encode"] / HASHES),
            probes=Probes(parent.golden_queries, parent.golden_vectors),
            report=_report(job, parent),
            retention=parent.manifest.retention,
            parent=parent.manifest.id,
            bring_teacher=partial(keep_teacher, parent),
        ),
    )


def _report(job: Job, parent: Parent) -> Mapping[str, Path]:
    """The parent's, since the towers are its, and what changed since."""
    theirs = {path.relative_to(parent.layout.report).as_posix(): path for path in list_files(parent.layout.report)}
    return theirs | {CHANGES: job.inputs["encode"] / CHANGES}


STAGES = {
    "export": Stage(
        name="since/export",
        run=take_over,
        sections=("text",),
        outside=lambda recipe, source: {**on_parent(recipe, source), "tower": str(_tower(source))},
    ),
    "prepare": replace(
        prepare.STAGE,
        name="since/prepare",
        run=read_data,
    ),
    "encode": Stage(
        name="since/encode", run=encode, needs=("since/export", "since/prepare"), sections=("text", "encode"), outside=on_parent
    ),
    "index": replace(
        index.STAGE,
        name="since/index",
        run=append.run,
        needs=("since/prepare", "since/export", "since/encode"),
        outside=lambda recipe, source: {**index.on_server(recipe, source), **on_parent(recipe, source)},
        still_holds=lambda job: index.still_there(job, ("since/pack",)),
    ),
    "pack": Stage(
        name="since/pack",
        run=pack,
        needs=("since/prepare", "since/export", "since/encode", "since/index"),
        sections=("text", "pack"),
        outside=lambda recipe, source: {"name": recipe.name, **on_parent(recipe, source)},
    ),
    "publish": replace(publish.STAGE, name="since/publish", needs=("since/pack",)),
}
