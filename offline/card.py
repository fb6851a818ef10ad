"""The model card of a snapshot: what it is, what it was made from, how good it is, what it is for and what not.

How card and snapshot are bound: the card lies in ``report/``, so the manifest lists its sha256, and cannot be named in it.
The card names the sha256 of the parts that it describes (graph, tokenizer, space), which it knows before they are sealed;
``python -m offline card`` checks both and prints the card under the sha256 of the manifest.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from offline.backbones import resolve_backbone
from offline.encoded import load_space
from offline.errors import BackboneError, OfflineError
from offline.exported import MODEL, TOKENIZER
from offline.findings import Findings
from offline.markdown import cell, table
from offline.stages import Job
from snapshot.files import sha256
from snapshot.layout import Layout
from snapshot.manifest import Manifest
from snapshot.verify import verify

CARD = "model_card.md"
_README_BYTES = 64 * 1024
_UNKNOWN = "not known"


def write(findings: Findings, job: Job) -> str:
    """The card in Markdown, from the report and the stages' outputs."""
    return (
        "\n\n".join(
            (
                f"# Model card: {findings.recipe}",
                _what(findings),
                "## Parts\n\n" + table(["part", "sha256"], _parts(job)),
                "## Data\n\n" + _data(findings, job),
                "## Figures\n\n" + _figures(findings),
                "## Intended use\n\n" + _USE,
                "## Limits\n\n" + _LIMITS,
                "## Licences\n\n" + table(["of", "licence"], _licences(job)),
            )
        )
        + "\n"
    )


_USE = (
    "Finding the documents of this snapshot by short texts like its training queries, in their language. The query tower is "
    "worth nothing without these documents' vectors: other documents are encoded with the document tower of the space above."
)
_LIMITS = (
    "Scores order documents of one query; they are no probabilities and are not comparable between queries or snapshots. The "
    "student learnt queries like those it was shown: for other kinds see slices and other spellings in `report.md`. Biases of "
    "backbone, documents and queries are kept. Figures hold for the split named, with the judgements it has; documents that "
    "nobody judged count as wrong. Nothing was done about unsafe or private content in the documents."
)


def _what(findings: Findings) -> str:
    export = findings.export
    return (
        f"A query tower of {export.layers} layers and {export.parameters:,} parameters ({export.precision} ONNX, vectors of "
        f"{export.dim} numbers), distilled from a teacher that was trained from `{findings.backbone}` together with the document "
        f"tower of {findings.documents:,} documents; method: ScalingNote (arXiv 2411.15766). The snapshot's manifest lists the "
        "sha256 of this card; `python -m offline card SNAPSHOT` checks that and prints the card under the manifest's own."
    )


def _parts(job: Job) -> list[list[str]]:
    export = job.inputs["export"]
    return [
        ["query_tower/model.onnx", f"`{sha256(export / MODEL)}`"],
        ["query_tower/tokenizer.json", f"`{sha256(export / TOKENIZER)}`"],
        ["space of the document vectors", f"`{load_space(job.inputs['encode']).fingerprint}`"],
    ]


def _data(findings: Findings, job: Job) -> str:
    told = job.inputs["prepare"] / "receipt.json"
    counts = json.loads(told.read_text(encoding="utf-8"))["summary"] if told.is_file() else {}
    rows = [[cell(str(name).replace("_", " ")), f"{value:,}"] for name, value in counts.items() if isinstance(value, int)]
    said = f"Source `{job.recipe.data.source}`, recipe `{findings.recipe}`."
    return f"{said}\n\n{table(['what', 'number'], rows)}" if rows else said


def _figures(findings: Findings) -> str:
    kept, proof = findings.retention, findings.proof
    if kept is None or proof is None:
        return "There were no judged queries to measure on."
    chosen = ", which chose the weights too: too good" if kept.split == "dev" else ""
    lines = [
        f"- nDCG@10 as served {kept.served:.4f}, teacher {kept.teacher:.4f}, on {kept.queries:,} {kept.split} queries{chosen}",
        f"- kept {kept.retained:.1%}, 95% paired bootstrap interval {kept.low:.1%} to {kept.high:.1%}",
        *(
            f"- teacher minus {contrast.baseline}: {contrast.difference.estimate:+.4f} [{contrast.difference.low:+.4f}, "
            f"{contrast.difference.high:+.4f}]"
            for contrast in proof.contrasts
        ),
        *(f"- {one.tower}: {one.p50_ms:.3f} ms a query (median, one thread of the builder)" for one in findings.latencies),
    ]
    return "\n".join(lines)


def _licences(job: Job) -> list[list[str]]:
    data = job.source.data
    return [
        [f"backbone `{job.recipe.train.backbone}`", _backbone_licence(job.recipe.train.backbone)],
        ["data", _UNKNOWN if data is None else _data_licence(data)],
    ]


def _backbone_licence(name: str) -> str:
    """What its own card declares (the field ``license`` of the front matter), or its package's metadata is silent about."""
    try:
        readme = resolve_backbone(name) / "README.md"
    except BackboneError:
        return _UNKNOWN
    return _declared(readme, "license:")


def _data_licence(folder: Path) -> str:
    return _declared(folder / "README.md", "| licence |", "| license |", "license:", "licence:")


def _declared(readme: Path, *keys: str) -> str:
    """The rest of the first line that begins with one of ``keys``."""
    if not readme.is_file():
        return _UNKNOWN
    for line in readme.read_text(encoding="utf-8", errors="replace")[:_README_BYTES].splitlines():
        for key in keys:
            if line.strip().lower().startswith(key):
                return cell(line.strip()[len(key) :].strip(" |")) or _UNKNOWN
    return _UNKNOWN


def read(snapshot: Path) -> str:
    """The card of a sealed snapshot, checked, under the sha256 of its manifest.

    Raises:
        SnapshotError: the snapshot is damaged: among others, a card that is not the one that was sealed.
        OfflineError: it has no card, or the card is of other parts.
    """
    manifest, layout = verify(snapshot), Layout(snapshot)
    path = layout.report / CARD
    if not path.is_file():
        raise OfflineError(f"{snapshot}: has no report/{CARD}; snapshots packed before there were cards have none")
    card = path.read_text(encoding="utf-8")
    _check_parts(card, manifest, layout)
    digest = hashlib.sha256(layout.manifest.read_bytes()).hexdigest()
    return f"Snapshot `{manifest.id}`, sha256 of its manifest `{digest}`.\n\n{card}"


def _check_parts(card: str, manifest: Manifest, layout: Layout) -> None:
    expected = (sha256(layout.model), sha256(layout.tokenizer), manifest.space.fingerprint)
    missing = [digest for digest in expected if digest not in card]
    if missing:
        raise OfflineError(f"{layout.root}: its card is that of other parts: it does not name {', '.join(missing)}")
