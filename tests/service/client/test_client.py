"""The client against a real service, and against every error that the service has."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import live
import pytest
from make_snapshot import make_oracle
from scripted import PATIENT, WORKING, Script, outcome, page_of_another
from serving import make_registry

import service.errors as service_errors
from service.api import schemas
from service.api.call import Call as ServerCall
from service.api.problems import reply_of
from service.client import (
    AsyncClient,
    BatchAnswer,
    BudgetSpentError,
    Client,
    DeadlineError,
    Degraded,
    DeniedError,
    EmbedAnswer,
    FaultError,
    Hit,
    OverloadedError,
    ProblemError,
    RequestError,
    Result,
    Retry,
    SearchAnswer,
    SearchItem,
    TooLargeError,
    UnavailableError,
    UnexpectedAnswerError,
    UnreachableError,
)
from service.errors import ServiceError

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Live]:
    folder: Path = tmp_path_factory.mktemp("client")
    make_registry(folder / "registry")
    service = live.start(folder, folder / "registry", "--max-timeout-ms", str(PATIENT), "--access-log-sample", "1")
    try:
        live.until(service, service.ready, "ready")
        yield service
    finally:
        service.stop()


@pytest.fixture
def client(running: live.Live) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{running.port}", timeout_ms=PATIENT) as made:
        yield made


@pytest.mark.slow
def test_a_search_finds_what_exact_search_finds(client: Client) -> None:
    oracle = make_oracle()
    answer = client.search("apple bread", k=3, exact=True)
    expected = sorted(oracle.encode(["apple bread"])[0] @ oracle.documents.T, reverse=True)[:3]
    assert [hit.score for hit in answer.hits] == pytest.approx(expected, abs=1e-4)
    assert answer.degraded is None
    assert answer.timings_ms["total"] > 0


@pytest.mark.slow
def test_batches_and_vectors_come_in_order(client: Client) -> None:
    searches: list[SearchItem] = [
        {"query": "apple", "k": 2},
        {"query": "drum", "k": 3, "filter": {"kind": "toy"}, "fields": ["kind"]},
    ]
    batch = client.search_batch(searches)
    assert [len(result.hits) for result in batch.results] == [2, 3]
    assert {hit.fields["kind"] for hit in batch.results[1].hits if hit.fields} == {"toy"}
    embedded = client.embed(["apple", "drum"])
    assert embedded.vectors == [pytest.approx(list(vector), abs=1e-4) for vector in make_oracle().encode(["apple", "drum"])]


@pytest.mark.slow
def test_ids_are_passed_on(running: live.Live, client: Client) -> None:
    assert client.search("apple", request_id="mine-1", traceparent=TRACE).request_id == "mine-1"
    with pytest.raises(RequestError) as caught:
        client.search("apple", filter={"nope": 1}, request_id="mine-2")
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (422, "request_invalid", "mine-2")
    assert [place.path for place in caught.value.places] == ["filter.nope"]
    line = live.until(running, lambda: [at for at in running.log_lines() if at.get("request_id") == "mine-1"], "logged")[0]
    assert TRACE.split("-")[1] in json.dumps(line)


@pytest.mark.slow
def test_threads_share_a_client_and_tasks_do(running: live.Live, client: Client) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(client.search("apple").hits[0].id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def together() -> list[str]:
        async with AsyncClient(f"http://127.0.0.1:{running.port}", timeout_ms=PATIENT) as shared:
            answers = await asyncio.gather(*(shared.search("apple") for _ in range(8)))
        return [answer.hits[0].id for answer in answers]

    assert len(set(found)) == 1
    assert asyncio.run(together()) == found


def test_a_service_that_is_not_there_is_said_so() -> None:
    with Client("http://127.0.0.1:1") as nobody, pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        nobody.search("apple")


def test_after_close_it_says_so() -> None:
    client = Client("http://127.0.0.1:1")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.search("apple")


def test_closing_ends_the_calls_of_other_threads() -> None:
    waiting, ended = threading.Event(), []

    async def never(request: httpx.Request) -> httpx.Response:
        waiting.set()
        await asyncio.Event().wait()
        raise AssertionError(request)

    client = Client("http://service", timeout_ms=PATIENT, transport=httpx.MockTransport(never))

    def search() -> None:
        try:
            client.search("apple")
        except UnreachableError as error:
            ended.append(str(error))

    thread = threading.Thread(target=search)
    thread.start()
    assert waiting.wait(PATIENT / 1000)
    client.close()
    thread.join(PATIENT / 1000)
    (said,) = ended
    assert said.startswith("the client was closed before the answer came (request_id ")


def refusal(error: ServiceError) -> httpx.Response:
    """What the service answers for an error, made by the service."""
    call = ServerCall({"headers": [(b"x-request-id", b"r")]}, time.monotonic)
    reply = reply_of(error, call, "/search")
    return httpx.Response(reply.status, headers=list(reply.headers), content=reply.body)


def made(kind: type[ServiceError]) -> ServiceError:
    """An instance of any error of the service."""
    if issubclass(kind, service_errors.InvalidRequestError):
        return kind(service_errors.FieldError("k", "m"))
    values = {"message": "m", "kind": "m", "reason": "m", "retry_after_ms": 1e6, "stage": "encode", "spent_ms": {"queue": 7.0}}
    own = inspect.signature(kind.__init__).parameters
    return kind(*([values[name] for name in own if name in values] or ["m"]))


EVERY = [kind for kind in vars(service_errors).values() if inspect.isclass(kind) and issubclass(kind, ServiceError)]
CLASSES: dict[int, type[ProblemError]] = {
    401: DeniedError,
    403: DeniedError,
    413: TooLargeError,
    429: OverloadedError,
    503: UnavailableError,
    504: BudgetSpentError,
    500: FaultError,
}


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_error_of_the_service_has_its_class(kind: type[ServiceError]) -> None:
    error = outcome(Script(refusal(made(kind))), retry=Retry(attempts=1))
    assert type(error) is CLASSES.get(kind.status, RequestError)
    assert isinstance(error, ProblemError)
    assert (error.code, error.status, error.request_id) == (kind.code, kind.status, "r")
    if isinstance(error, DeadlineError):
        assert error.spent_ms == {"queue": 7.0}


@pytest.mark.parametrize(
    ("answer", "schema"),
    [
        (SearchAnswer, schemas.SearchResponse),
        (BatchAnswer, schemas.BatchResponse),
        (EmbedAnswer, schemas.EmbedResponse),
        (Result, schemas.ResultModel),
        (Hit, schemas.HitModel),
        (Degraded, schemas.DegradedModel),
    ],
)
def test_answers_are_those_of_the_service(answer: Any, schema: Any) -> None:
    assert answer.model_fields.keys() == schema.model_fields.keys()


def test_what_a_later_service_adds_is_ignored() -> None:
    assert isinstance(outcome(Script(httpx.Response(200, json=WORKING | {"new": 1}))), SearchAnswer)


@pytest.mark.parametrize("status", [200, 301, 404, 502, 504])
def test_pages_of_others_are_not_taken_for_answers_nor_asked_for_again(status: int) -> None:
    script = Script(page_of_another(status, "0"))
    error = outcome(script)
    assert isinstance(error, UnexpectedAnswerError)
    assert (error.status, len(script.asked)) == (status, 1)


@pytest.mark.parametrize("kind", [service_errors.OverloadedError, service_errors.DrainingError])
def test_what_is_refused_is_asked_again_when_the_service_says(kind: type[ServiceError]) -> None:
    error = made(kind)
    error.retry_after_ms = 30.0
    script = Script(refusal(error), refusal(error), httpx.Response(200, json=WORKING))
    begun = time.monotonic()
    assert isinstance(outcome(script, random=lambda: 0.5), SearchAnswer)
    assert time.monotonic() - begun >= 2 * 0.030 * 1.25
    first, _, third = script.asked
    assert {request.headers["x-request-id"] for request in script.asked} == {first.headers["x-request-id"]}
    assert float(third.headers["request-timeout-ms"]) < float(first.headers["request-timeout-ms"]) - 60


def test_attempts_are_counted() -> None:
    error = service_errors.OverloadedError("m", 1.0)
    script = Script(*(refusal(error) for _ in range(5)))
    assert isinstance(outcome(script, retry=Retry(attempts=3)), OverloadedError)
    assert len(script.asked) == 3


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    script = Script(refusal(service_errors.OverloadedError("m", 60_000.0)))
    begun = time.monotonic()
    error = outcome(script, timeout_ms=50_000.0)
    assert isinstance(error, OverloadedError)
    assert error.retry_after_ms == 60_000.0
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind.status not in (429, 503)], ids=lambda kind: kind.__name__)
def test_nothing_else_is_asked_again(kind: type[ServiceError]) -> None:
    script = Script(refusal(made(kind)), httpx.Response(200, json=WORKING))
    assert isinstance(outcome(script), ProblemError)
    assert len(script.asked) == 1


def test_without_a_word_of_when_nothing_is_asked_again() -> None:
    body = json.loads(refusal(service_errors.DrainingError("m")).content)
    body.pop("retry_after_ms")
    script = Script(httpx.Response(503, json=body), httpx.Response(200, json=WORKING))
    assert isinstance(outcome(script), UnavailableError)
    assert len(script.asked) == 1


def test_the_header_says_when_where_the_body_does_not() -> None:
    body = json.loads(refusal(service_errors.DrainingError("m")).content)
    body.pop("retry_after_ms")
    error = outcome(Script(httpx.Response(503, json=body, headers={"retry-after": "120"})), timeout_ms=1000)
    assert isinstance(error, UnavailableError)
    assert error.retry_after_ms == 120_000


def test_the_service_gets_less_than_the_budget_so_that_its_answer_arrives() -> None:
    script = Script(httpx.Response(200, json=WORKING))
    outcome(script, timeout_ms=100)
    assert 50 < float(script.asked[0].headers["request-timeout-ms"]) <= 95


@pytest.mark.parametrize("timeout_ms", [0, -1, float("nan"), float("inf")])
def test_a_budget_is_a_positive_number(timeout_ms: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        outcome(Script(), timeout_ms=timeout_ms)


def test_one_text_is_not_taken_for_a_list_of_letters() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(TypeError, match="list"):
        client.embed("apple")


def test_nothing_of_the_service_comes_along() -> None:
    heavy = ["fastapi", "onnxruntime", "faiss", "numpy", "snapshot", "service.settings"]
    code = f"import sys, service.client; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_without_httpx_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['httpx'] = None; import service.client"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "scalingnote[client]" in ended.stderr
