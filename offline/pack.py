"""Everything that is served, sealed as one snapshot, with a golden set from torch and brute force to prove it by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from offline import towers
from offline.assemble import Content, Probes, assemble
from offline.changes import text_hashes
from offline.data.prepared import Prepared
from offline.encoded import SHARDS, Vectors, load_space
from offline.exported import REPORT
from offline.probes import probe_queries
from offline.stages import CONFIG, INPUTS, RECEIPT, Job, Stage, Summary
from offline.teacher import bring_teacher
from snapshot.documents import write_documents
from snapshot.manifest import Retention
from snapshot.text import render_query

_FINDINGS = "report.json"


def run(job: Job) -> Summary:
    """Assemble and seal ``<job.folder>/<id>/``; errors as of ``assemble``."""
    prepared = Prepared(job.inputs["prepare"])
    return assemble(
        job,
        Content(
            space=load_space(job.inputs["encode"]),
            vectors=Vectors(job.inputs["encode"] / SHARDS),
            documents=prepared.documents.num_rows,
            write_documents=lambda folder: write_documents(prepared.documents, folder),
            text_hashes=text_hashes(job.recipe.text.document, prepared.tower_texts),
            probes=make_probes(job),
            report=report_files(job),
            retention=read_retention(job),
            bring_teacher=partial(bring_teacher, job),
        ),
    )


def make_probes(job: Job) -> Probes:
    """Real queries through the distilled tower in torch."""
    spec = job.recipe.text.query
    queries = probe_queries(Prepared(job.inputs["prepare"]), job.recipe.pack.golden_queries)
    student = towers.load_tower(job.inputs["refine"] / "student").to("cpu").float()  # a GPU would compute in bf16
    texts = [render_query(spec, query) for query in queries]
    return Probes(queries, towers.encode(student, spec, texts, batch_size=32))


def report_files(job: Job) -> Mapping[str, Path]:
    """What ``evaluate`` wrote, without receipts, and the report of the export; by their paths below ``report/``."""
    evaluate, own = job.inputs["evaluate"], {RECEIPT, INPUTS, CONFIG}
    found = {path.relative_to(evaluate).as_posix(): path for path in evaluate.rglob("*") if path.is_file()}
    return {REPORT: job.inputs["export"] / REPORT} | {name: path for name, path in found.items() if name not in own}


def read_retention(job: Job) -> Retention | None:
    """What ``evaluate`` measured; None where there was nothing to measure it on."""
    found = json.loads((job.inputs["evaluate"] / _FINDINGS).read_text(encoding="utf-8"))["retention"]
    return TypeAdapter[Retention | None](Retention | None).validate_python(found)


STAGE = Stage(
    name="pack",
    run=run,
    needs=("prepare", "train", "refine", "export", "encode", "index", "evaluate"),
    sections=("text", "pack"),
    outside=lambda recipe, _source: {"name": recipe.name},
    version=2,
)
