"""An empty FastAPI route with hits to render: what HTTP, JSON and validation cost alone."""

from __future__ import annotations

import argparse
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from tests.bench.naive_server import Request, Response


def create_app(answer: Response) -> FastAPI:
    """An app that validates the request and renders the same answer each time."""
    app = FastAPI()

    @app.post("/search")
    async def search(request: Request) -> Response:
        return answer

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer", type=Path, required=True, help="a recorded answer of /search")
    arguments = parser.parse_args()
    answer = Response.model_validate_json(arguments.answer.read_bytes())
    uvicorn.run(create_app(answer), host="127.0.0.1", port=arguments.port, log_level="error", access_log=False)


if __name__ == "__main__":
    main()
