"""POST /embed and /v1/embeddings."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from make_snapshot import make_oracle
from serving import Client, assert_problem, client_of

from service.api.schemas import EmbedResponse, OpenAIEmbedResponse, OpenAIError

ORACLE = make_oracle(rows=200)
TEXTS = ["apple bread", "zebra", " ".join(["lamp"] * 40)]


def assert_openai_error(response: httpx.Response, status: int, code: str, param: str | None = None) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = OpenAIError.model_validate_json(response.content, strict=True).error
    assert (error.code, error.param) == (code, param)
    assert error.message
    assert error.type == ("invalid_request_error" if status < 500 else "server_error")


def test_vectors_are_those_of_the_query_tower(client: Client) -> None:
    response = client.post("/embed", {"queries": TEXTS, "input_type": "query"})
    answer = EmbedResponse.model_validate_json(response.content, strict=True)
    np.testing.assert_allclose(answer.vectors, ORACLE.encode(TEXTS), atol=1e-5)
    assert (answer.dim, answer.tokens, answer.truncated) == (16, [4, 3, 12], [False, False, True])
    assert answer.snapshot == client.parts.generations.serving
    assert list(answer.timings_ms) == ["queue", "tokenize", "encode", "total"]


def test_one_query_is_a_list_of_one(client: Client) -> None:
    one, listed = client.post("/embed", {"query": "zebra"}).json(), client.post("/embed", {"queries": ["zebra"]}).json()
    assert one["vectors"] == listed["vectors"]


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        ({}, "body", "give either query"),
        ({"query": "a", "queries": ["b"]}, "body", "give either query"),
        ({"queries": []}, "queries", ""),
        ({"queries": ["a", " "]}, "queries.1", "blank"),
        ({"queries": "a"}, "queries", "list"),
        ({"query": "a", "input_type": "document"}, "input_type", "the document tower is not loaded"),
        ({"queries": ["a"] * 257}, "queries", "at most 256"),
        ({"query": "a", "model": "x"}, "model", "unknown key"),
    ],
)
def test_a_wrong_embed_body_is_refused(client: Client, body: Any, path: str, message: str) -> None:
    [error] = assert_problem(client.post("/embed", body), 422, "request_invalid")["errors"]
    assert error["path"] == path
    assert message in error["message"]


@pytest.mark.parametrize("given", [TEXTS, TEXTS[0]])
def test_openai_clients_get_their_shape(client: Client, given: str | list[str]) -> None:
    response = client.post("/v1/embeddings", {"input": given, "model": "any", "encoding_format": "float", "user": "u"})
    answer = OpenAIEmbedResponse.model_validate_json(response.content, strict=True)
    texts = [given] if isinstance(given, str) else given
    np.testing.assert_allclose([item.embedding for item in answer.data], ORACLE.encode(texts), atol=1e-5)
    assert [item.index for item in answer.data] == list(range(len(texts)))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == (4 if len(texts) == 1 else 19)
    assert answer.model == client.parts.generations.serving
    assert "total;dur=" in response.headers["server-timing"]


def test_base64_is_the_same_vector(client: Client) -> None:
    body = {"input": "zebra", "model": "any", "encoding_format": "base64", "dimensions": 16}
    [item] = client.post("/v1/embeddings", body).json()["data"]
    vector = np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4")
    np.testing.assert_allclose(vector, ORACLE.encode(["zebra"])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "m"}, "input"),
        ({"input": "", "model": "m"}, "input.0"),
        ({"input": [], "model": "m"}, "input"),
        ({"input": [1, 2], "model": "m"}, "input.0"),
        ({"input": [[1, 2]], "model": "m"}, "input.0"),
        ({"input": "a"}, "model"),
        ({"input": "a", "model": "m", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "model": "m", "dimensions": 8}, "dimensions"),
        ({"input": "a", "model": "m", "dimensions": 10**4200}, "dimensions"),
        ({"input": ["a"] * 257, "model": "m"}, "input"),
    ],
)
def test_openai_clients_get_their_errors(client: Client, body: Any, param: str) -> None:
    assert_openai_error(client.post("/v1/embeddings", body), 400, "request_invalid", param)


def test_every_error_under_v1_has_openais_shape(client: Client, tmp_path: Path) -> None:
    assert_openai_error(client.get("/v1/embeddings"), 405, "method_not_allowed")
    assert_openai_error(client.post("/v1/completions", {}), 404, "not_found")
    assert_openai_error(client.post("/v1/embeddings", content=b"x" * 3_000_000), 413, "body_too_large")
    with client_of(tmp_path) as empty:
        body = {"input": "a", "model": "m"}
        assert_openai_error(empty.post("/v1/embeddings", body), 503, "no_snapshot")
        assert_openai_error(empty.post("/v1/embeddings", {**body, "dimensions": 16}), 503, "no_snapshot")
