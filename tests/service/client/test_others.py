"""The client against what is not the service: balancers that refuse, addresses that are none, and what cannot be sent."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import httpx
import pytest
from scripted import WORKING, Script, outcome, page_of_another

from service.client import (
    Client,
    OverloadedError,
    RequestError,
    Retry,
    SearchAnswer,
    UnavailableError,
    UnreachableError,
)

DAY_MS = 86_400_000.0
THEN = 1_795_000_000.0
KINDS = {429: OverloadedError, 503: UnavailableError}
STATUSES = pytest.mark.parametrize("status", KINDS)


@STATUSES
def test_a_balancer_that_says_when_is_asked_again_then(status: int) -> None:
    script = Script(page_of_another(status, "0"), httpx.Response(200, json=WORKING))
    assert isinstance(outcome(script), SearchAnswer)
    assert len(script.asked) == 2


@STATUSES
def test_a_balancer_that_does_not_say_when_is_not_asked_again(status: int) -> None:
    script = Script(page_of_another(status, None))
    error = outcome(script)
    assert isinstance(error, KINDS[status])
    assert (error.status, error.code, error.retry_after_ms, len(script.asked)) == (status, "unnamed", None, 1)
    assert "text/html" in str(error)
    assert error.request_id == script.asked[0].headers["x-request-id"]


def test_a_problem_of_another_is_asked_again_as_it_says() -> None:
    other = httpx.Response(503, json={"title": "busy"}, headers={"content-type": "application/problem+json", "retry-after": "0"})
    assert isinstance(outcome(Script(other, httpx.Response(200, json=WORKING))), SearchAnswer)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("7", 7000.0),
        (formatdate(THEN + 7, usegmt=True), 7000.0),
        (formatdate(THEN - 7, usegmt=True), 0.0),
        ("9" * 400, DAY_MS),
        ("9" * 5000, DAY_MS),
        (formatdate(THEN + 1e9, usegmt=True), DAY_MS),
        ("-1", None),
        ("soon", None),
        ("Mon, 99 Foo 2026 99:99:99 GMT", None),
    ],
)
def test_when_is_read_in_seconds_and_as_a_date_by_the_answer_s_own_clock(said: str, expected: float | None) -> None:
    error = outcome(Script(page_of_another(503, said, date=formatdate(THEN, usegmt=True))), retry=Retry(attempts=1))
    assert isinstance(error, UnavailableError)
    assert error.retry_after_ms == expected


def test_a_date_without_another_is_counted_from_now() -> None:
    error = outcome(Script(page_of_another(503, formatdate(time.time() + 600, usegmt=True))), retry=Retry(attempts=1))
    assert isinstance(error, UnavailableError)
    assert error.retry_after_ms == pytest.approx(600_000, abs=30_000)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"request_id": "é"}, "request_id"),
        ({"request_id": "a\nb"}, "request_id"),
        ({"request_id": ""}, "request_id"),
        ({"traceparent": "é"}, "traceparent"),
        ({"traceparent": "a\nb"}, "traceparent"),
        ({"min_score": float("nan")}, "body"),
        ({"filter": {"kind": {"toy"}}}, "body"),
        ({"query": "a\ud800"}, "body"),
    ],
)
def test_what_cannot_be_sent_is_a_wrong_request_and_is_not_sent(options: dict[str, Any], path: str) -> None:
    script = Script()
    with Client("http://service", transport=script.transport()) as client, pytest.raises(RequestError) as caught:
        client.search(options.pop("query", "apple"), **options)
    assert [place.path for place in caught.value.places] == [path]
    assert (caught.value.status, caught.value.code, script.asked) == (422, "request_invalid", [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://localhost:99999", "http://127.0.0.1:1", "http://127.0.0.1:1/", "ftp://there", "there:80"]
)
def test_an_address_that_is_none_is_said_with_its_path(url: str) -> None:
    with Client(url) as client, pytest.raises(UnreachableError) as caught:
        client.search("apple")
    assert f"{url.rstrip('/')}/search: " in str(caught.value)


def test_a_header_that_is_none_is_said() -> None:
    with Client("http://127.0.0.1:1", headers={"X-Proxy": "a\nb"}) as client, pytest.raises(UnreachableError, match="/search: "):
        client.search("apple")


@pytest.mark.parametrize("address", ["localhost:8077", "127.0.0.1", "", "ftp://localhost"])
def test_an_address_without_a_scheme_is_told_how_one_begins(address: str) -> None:
    with Client(address) as client, pytest.raises(UnreachableError, match="begins with http:// or https://"):
        client.search("apple")
