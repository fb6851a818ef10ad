"""The saved towers as a model of MTEB (arXiv 2210.07316), and prepared data as a task of it. Needs the extra ``mteb``.

    towers = Towers.load(Path("work/tldr"), recipe)
    mteb.evaluate(towers, mteb.get_task("SciFact"))            # any retrieval task that is on this machine
    evaluate(towers, Prepared(Path("work/tldr/prepare")), recipe, "test")   # or the recipe's own data

Queries and documents go through different towers: MTEB says which side it asks for. Its nDCG has linear gain, the report's
2^score - 1: the same where judgements are 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mteb
import numpy as np
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.models.model_meta import ModelMeta
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer

from offline import towers
from offline.data.prepared import Prepared
from offline.errors import DataError, StageError
from offline.judged import Judged, judged_split
from offline.made import check_bytes
from offline.progress import say
from offline.ranking import Floats
from offline.recipe import Recipe
from offline.stages import RECEIPT
from snapshot.text import render, render_query

_STUDENTS, _STUDENT = ("refine", "distill"), "student"
_DOCUMENTS, _TEACHER = "train", "query_tower"
_NDCG = "ndcg_at_10"
_LINEAR_GAIN = "  judgements are graded: MTEB's nDCG has linear gain, the report's 2^score - 1, so that they differ"


@dataclass(frozen=True)
class Towers:
    """A query tower and a document tower, as ``mteb.evaluate`` takes a model."""

    query: SentenceTransformer
    document: SentenceTransformer
    recipe: Recipe

    @classmethod
    def load(cls, work: Path, recipe: Recipe, student: bool = True) -> Towers:
        """The towers of a work folder: the last student with the teacher's document tower, or the teacher itself.

        Raises:
            StageError: there is none yet, or a file is another than the stage that made it wrote.
        """
        stage = stage_of_query_tower(work, student)
        for name in dict.fromkeys((stage, _DOCUMENTS)):
            check_bytes(work, name)
        query = towers.load_tower(work / stage / (_STUDENT if student else _TEACHER))
        return cls(query, towers.load_tower(work / _DOCUMENTS / "document_tower"), recipe)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """MTEB's name for it."""
        return ModelMeta.create_empty(overwrites={"name": f"scalingnote/{self.recipe.name}", "revision": "local"})

    def encode(self, inputs: Iterable[Mapping[str, Any]], *, prompt_type: PromptType | None = None, **_: Any) -> Floats:
        """Vectors float32[n, dim] of MTEB's batches: documents by the document tower, everything else by the query tower."""
        batches = list(inputs)
        if prompt_type == PromptType.document:
            return self.encode_document([row for batch in batches for row in _documents(batch)])
        return self.encode_query([text for batch in batches for text in batch["text"]])

    def encode_query(self, texts: list[str]) -> Floats:
        """Raw queries to float32[n, dim]."""
        spec = self.recipe.text.query
        return towers.encode(self.query, spec, [render_query(spec, text) for text in texts])

    def encode_document(self, rows: list[dict[str, str]]) -> Floats:
        """Documents with ``title`` and ``text`` to float32[n, dim]."""
        spec = self.recipe.text.document
        return towers.encode(self.document, spec, [render(spec, row) for row in rows])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines float32[n, m]: vectors have length 1."""
        return self.query.similarity(_plain(embeddings1), _plain(embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines float32[n] row by row."""
        return self.query.similarity_pairwise(_plain(embeddings1), _plain(embeddings2))


def stage_of_query_tower(work: Path, student: bool = True) -> str:
    """The stage that made the last student, or the teacher.

    Raises:
        StageError: none has finished.
    """
    for name in _STUDENTS if student else (_DOCUMENTS,):
        if (work / name / RECEIPT).is_file():
            return name
    stage = "distill first, or ask for the teacher with --teacher" if student else "train first"
    raise StageError(f"{work}: there is no {'student' if student else 'teacher'}; run the stage {stage}")


def _plain(vectors: Any) -> Floats:
    return np.asarray(vectors, np.float32)


def _documents(batch: Mapping[str, Any]) -> list[dict[str, str]]:
    """MTEB joins title and text in ``text`` and keeps the text alone in ``body``."""
    texts = batch.get("body", batch["text"])
    titles = batch.get("title", [""] * len(texts))
    return [{"title": title or "", "text": text} for title, text in zip(titles, texts, strict=True)]


def local_task(prepared: Prepared, judged: Judged) -> AbsTaskRetrieval:
    """Prepared documents and one split's judged queries as a retrieval task, without any hub."""
    ids = prepared.documents.column("id").to_pylist()
    rows = prepared.tower_texts.to_pylist()
    data = {
        "corpus": Dataset.from_list([{"id": ids[place], **row} for place, row in enumerate(rows)]),
        "queries": Dataset.from_list([{"id": key, "text": text} for key, text in zip(judged.ids, judged.texts, strict=True)]),
        "relevant_docs": {
            key: {ids[row]: grade for row, grade in scores.items()}
            for key, scores in zip(judged.ids, judged.judgements, strict=True)
        },
        "top_ranked": None,
    }

    class Local(AbsTaskRetrieval):  # type: ignore[misc]  # mteb is not followed by mypy: see pyproject.toml
        metadata = mteb.TaskMetadata(
            name="Local",
            description="Documents and judged queries of a folder in BEIR layout.",
            dataset={"path": "local", "revision": "local"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=[judged.split],
            eval_langs=["eng-Latn"],
            main_score=_NDCG,
            reference=None,
            date=None,
            domains=None,
            task_subtypes=None,
            license=None,
            annotations_creators=None,
            dialect=None,
            sample_creation=None,
            bibtex_citation=None,
        )
        ignore_identical_ids = judged.with_own > 0

        def load_data(self, **_: Any) -> None:
            self.dataset = {"default": {judged.split: data}}
            self.data_loaded = True

    return Local()


def evaluate(model: Towers, prepared: Prepared, recipe: Recipe, split: str) -> dict[str, float]:
    """MTEB's scores of the towers on one split, by its names (``ndcg_at_10``, ``recall_at_100``, ...).

    Raises:
        DataError: the split has no judged query with a relevant document.
    """
    judged = judged_split(prepared, recipe, split)
    if not len(judged):
        raise DataError(f"{prepared.folder}: no judged query with a relevant document in {split}; give --split dev or train")
    if any(score > 1 for scores in judged.judgements for score in scores.values()):
        say(_LINEAR_GAIN)
    found = mteb.evaluate(model, local_task(prepared, judged), cache=None, overwrite_strategy="always", show_progress_bar=False)
    scores = found.task_results[0].scores[split][0]
    return {name: float(value) for name, value in scores.items() if isinstance(value, int | float)}
