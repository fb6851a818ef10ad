"""A rival: FastAPI, onnxruntime and FAISS as a competent newcomer puts them together, every default left alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnxruntime
import pyarrow as pa
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from tokenizers import Tokenizer


class Request(BaseModel):
    """What is asked."""

    query: str
    k: int = 10


class Hit(BaseModel):
    """A document."""

    id: str
    score: float
    fields: dict[str, Any]


class Response(BaseModel):
    """What is answered."""

    hits: list[Hit]


def create_app(snapshot: Path, effort: int) -> FastAPI:
    """An app over the files of a snapshot with an HNSW index."""
    app = FastAPI()
    tokenizer = Tokenizer.from_file(str(snapshot / "query_tower/tokenizer.json"))
    tokenizer.enable_truncation(32)
    session = onnxruntime.InferenceSession(str(snapshot / "query_tower/model.onnx"))
    index = faiss.read_index(str(snapshot / "index/index.faiss"))
    index.hnsw.efSearch = effort
    documents = read_documents(snapshot)

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/search")
    def search(request: Request) -> Response:
        encoding = tokenizer.encode(request.query)
        inputs = {"input_ids": np.array([encoding.ids]), "attention_mask": np.array([encoding.attention_mask])}
        vector = session.run(None, inputs)[0]
        return respond(index, documents, vector, request.k)

    return app


def read_documents(snapshot: Path) -> list[dict[str, Any]]:
    """Every document with its fields, in memory."""
    paths = sorted((snapshot / "documents").glob("*.arrow"))
    rows: list[dict[str, Any]] = pa.concat_tables([pa.ipc.open_file(str(path)).read_all() for path in paths]).to_pylist()
    return rows


def respond(index: Any, documents: list[dict[str, Any]], vector: np.ndarray, k: int) -> Response:
    """Search and look the documents up."""
    scores, rows = index.search(vector, k)
    found = [(documents[row], score) for row, score in zip(rows[0], scores[0], strict=True)]
    return Response(
        hits=[
            Hit(id=document["id"], score=score, fields={name: value for name, value in document.items() if name != "id"})
            for document, score in found
        ]
    )


def arguments() -> argparse.Namespace:
    """The flags of both rivals."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--snapshot", type=Path, required=True, help="folder of a snapshot with an HNSW index")
    parser.add_argument("--effort", type=int, required=True, help="efSearch, the same as ours")
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    uvicorn.run(create_app(given.snapshot, given.effort), port=given.port, access_log=False, log_level="error")
