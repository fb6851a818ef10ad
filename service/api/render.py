"""Answers as JSON bytes. Plain dictionaries, not models: ``schemas`` describes them, and tests hold them to it."""

from __future__ import annotations

import base64
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from service.api.call import Call
from service.pipeline import Answer, Embedded
from service.stages import Hit, Result


def json_response(content: bytes, status: int = 200) -> Response:
    """Bytes of JSON as an answer that nobody keeps."""
    return Response(content, status, {"Cache-Control": "no-store"}, "application/json")


def to_bytes(value: Any) -> bytes:
    """JSON; a stored NaN or infinity becomes null, since JSON has neither."""
    return to_json(value, inf_nan_mode="null")


def search_answer(call: Call, answer: Answer) -> bytes:
    """A SearchResponse."""
    return to_bytes({**_result(answer.results[0]), **_served(answer, call)})


def batch_answer(call: Call, answer: Answer) -> bytes:
    """A BatchResponse."""
    return to_bytes({"results": [_result(result) for result in answer.results], **_served(answer, call)})


def embed_answer(call: Call, embedded: Embedded) -> bytes:
    """An EmbedResponse."""
    encoded = embedded.encoded
    return to_bytes(
        {
            "vectors": encoded.vectors.tolist(),
            "dim": encoded.vectors.shape[1],
            "tokens": encoded.tokens,
            "truncated": encoded.truncated,
            **_served(embedded, call),
        }
    )


def openai_answer(call: Call, embedded: Embedded, *, as_base64: bool) -> bytes:
    """An OpenAIEmbedResponse."""
    call.answered, call.timings_ms = embedded, embedded.timings_ms
    encoded = embedded.encoded
    if as_base64:
        vectors: list[Any] = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in encoded.vectors]
    else:
        vectors = encoded.vectors.tolist()
    used = sum(encoded.tokens)
    return to_bytes(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)],
            "model": embedded.snapshot,
            "usage": {"prompt_tokens": used, "total_tokens": used},
        }
    )


def _served(answered: Answer | Embedded, call: Call) -> dict[str, Any]:
    call.answered, call.timings_ms = answered, answered.timings_ms
    return {"snapshot": answered.snapshot, "timings_ms": answered.timings_ms, "request_id": call.request_id}


def _result(result: Result) -> dict[str, Any]:
    plan = result.plan
    degraded = {"causes": plan.causes, "expected_recall": plan.expected_recall} if plan.causes else None
    return {"hits": [_hit(hit) for hit in result.hits], "degraded": degraded, "truncated": result.truncated}


def _hit(hit: Hit) -> dict[str, Any]:
    return {"id": hit.id, "score": hit.score, "fields": hit.fields}
