"""A rival: FastAPI, sentence-transformers with the teacher's whole backbone, and FAISS; every default left alone."""

from __future__ import annotations

from pathlib import Path

import faiss
import uvicorn
from fastapi import FastAPI
from sentence_transformers import SentenceTransformer

from offline.backbones import resolve_backbone
from tests.bench.naive_server import Request, Response, arguments, read_documents, respond
from tests.bench.students import BACKBONE


def create_app(snapshot: Path, effort: int) -> FastAPI:
    """An app over index and documents of a snapshot."""
    app = FastAPI()
    model = SentenceTransformer(str(resolve_backbone(BACKBONE)), device="cpu")
    index = faiss.read_index(str(snapshot / "index/index.faiss"))
    index.hnsw.efSearch = effort
    documents = read_documents(snapshot)

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/search")
    def search(request: Request) -> Response:
        vector = model.encode([request.query], normalize_embeddings=True, show_progress_bar=False)
        return respond(index, documents, vector, request.k)

    return app


if __name__ == "__main__":
    given = arguments()
    uvicorn.run(create_app(given.snapshot, given.effort), port=given.port, access_log=False, log_level="error")
