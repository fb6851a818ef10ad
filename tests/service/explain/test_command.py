"""``python -m service explain`` as it is typed, on a registry and on a running service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from make_snapshot import make_snapshot
from typer.testing import CliRunner

from service.__main__ import app
from service.doctor.command import or_error
from service.errors import UnreachableError
from service.explain.over_http import explain_service, show_answers
from service.explain.question import Question, parse_filter
from snapshot.registry import Registry

QUERY = "apple bread chair"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    Registry(root).activate(make_snapshot(root, kind="ivfpq", teacher=0.7).root.name, "for a test")
    return root


def explain(registry: Path, *arguments: str) -> tuple[int, str, str]:
    ended = CliRunner().invoke(app, ["explain", QUERY, "--registry", str(registry), *arguments])
    return ended.exit_code, ended.stdout, ended.stderr


def test_machines_get_every_step_with_what_was_lost(registry: Path) -> None:
    code, printed, _ = explain(registry, "--json", "--filter", '{"kind": "tool"}', "-k", "7", "--timeout-ms", "60000")
    told: dict[str, Any] = json.loads(printed)
    assert (code, told["k"], told["query"], told["snapshot"]) == (0, 7, QUERY, Registry(registry).current())
    assert [step["step"] for step in told["steps"]] == ["encoder", "int8", "quantisation", "ann", "budget", "filter"]
    assert sum(step["points"] or 0.0 for step in told["steps"]) == pytest.approx(told["lost"])
    times = dict(told["timings_ms"])
    assert sum(ms for name, ms in times.items() if name != "total") == pytest.approx(times["total"])
    [encoder] = [step for step in told["steps"] if step["step"] == "encoder"]
    assert encoder["lost"]
    assert all(moved["id"].startswith("doc-") and moved["id"] not in told["hits"] for moved in encoder["lost"])
    assert any(line.startswith("encoder: ") for line in told["advice"])


def test_people_get_the_same_as_tables(registry: Path) -> None:
    code, printed, _ = explain(registry)
    assert code == 0
    for word in (
        "tokenize",
        "total",
        "recall@10 against exact search, teacher's vector",
        "the graph that is served is fp32",
        "doc-",
    ):
        assert word in printed
    assert "in all: encoder " in printed


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--filter", "kind"), "not JSON"),
        (("--filter", "[]"), "not a JSON object"),
        (("--filter", '{"kind": "\udce9"}'), "filter: is no UTF-8"),
        (("--filter", '{"colour": 1}'), "filter.colour"),
        (("--effort", "77"), "77 is not in the effort table"),
        (("--snapshot", "20200101T000000Z-00000000"), "no snapshot"),
        (("--timeout-ms", "0.001"), "the budget of 0.001 ms does not reach"),
        (("--url", "ftp://x"), "not the URL of a service"),
        (("--url", "http://me:secret@x"), "no user and no password"),
    ],
)
def test_what_is_wrong_is_one_line_and_two_also_for_machines(registry: Path, arguments: tuple[str, ...], word: str) -> None:
    code, printed, said = explain(registry, *arguments)
    assert (code, printed, len(said.splitlines())) == (2, "", 1)
    assert word in said
    code, printed, said = explain(registry, *arguments, "--json")
    assert (code, said) == (2, "")
    assert word in json.loads(printed)["error"]["message"]


@pytest.mark.parametrize("query", ["", " \t"])
def test_a_blank_query_is_refused_as_search_does(registry: Path, query: str) -> None:
    ended = CliRunner().invoke(app, ["explain", query, "--registry", str(registry)])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "query: is empty or blank" in ended.stderr


def test_a_registry_that_wants_nothing(tmp_path: Path) -> None:
    code, _, said = explain(tmp_path)
    assert (code, "--snapshot" in said) == (2, True)


class Service:
    """Answers as a service does, from a list."""

    url = "http://service"

    def __init__(self, *answers: dict[str, Any], status: int = 200) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answers = list(answers)
        self._status = status

    def post(self, path: str, body: dict[str, Any]) -> Any:
        from service.ask import Reply

        self.asked.append({"path": path, **body})
        return Reply(self.url, self._status, {}, json.dumps(self._answers.pop(0)).encode(), 0.01, 0.0)


def answer(*ids: str, snapshot: str = "one", degraded: dict[str, Any] | None = None) -> dict[str, Any]:
    hits = [{"id": one, "score": 0.5, "fields": {}} for one in ids]
    return {"hits": hits, "snapshot": snapshot, "timings_ms": {"search": 1.0, "total": 2.0}, "degraded": degraded}


def test_a_running_service_is_asked_twice(capsys: pytest.CaptureFixture[str]) -> None:
    degraded = {"causes": ["deadline_effort"], "expected_recall": 0.5}
    service = Service(answer("a", "c", degraded=degraded), answer("a", "b"))
    found = explain_service(service, Question(QUERY, 2, {"kind": "tool"}, timeout_ms=5.0))  # type: ignore[arg-type]
    assert service.asked[0] == {"path": "/search", "query": QUERY, "k": 2, "filter": {"kind": "tool"}, "timeout_ms": 5.0}
    exact = {"exact": True, "timeout_ms": 60_000.0}
    assert service.asked[1] == {"path": "/search", "query": QUERY, "k": 2, "filter": {"kind": "tool"}, **exact}
    assert (found.lost, found.points, found.hits) == (["b"], 0.5, ["a", "c"])
    show_answers(found, as_json=False)
    printed = capsys.readouterr().out
    assert "lost by index and filter: 0.500 of 1 b" in printed
    assert "degraded by deadline_effort: recall 0.500" in printed


@pytest.mark.parametrize("encoded", [True, False])
def test_a_vector_that_was_remembered_is_said(capsys: pytest.CaptureFixture[str], encoded: bool) -> None:
    first = answer("a")
    first["timings_ms"] |= {"encode": 0.5} if encoded else {}
    found = explain_service(Service(first, answer("a")), Question(QUERY))  # type: ignore[arg-type]
    show_answers(found, as_json=False)
    assert ("vector remembered: encode not done" in capsys.readouterr().out) is not encoded
    show_answers(found, as_json=True)
    assert json.loads(capsys.readouterr().out)["remembered"] is not encoded


@pytest.mark.parametrize(("status", "code"), [(401, "key_unknown"), (403, "key_scope")])
def test_a_service_that_wants_a_key_is_said_with_the_way_to_give_one(status: int, code: str) -> None:
    with pytest.raises(UnreachableError, match=rf"HTTP {status} {code}: who\?; .*--key-file"):
        explain_service(Service({"code": code, "detail": "who?"}, status=status), Question(QUERY))  # type: ignore[arg-type]


def test_a_service_that_refuses_or_swaps_meanwhile(capsys: pytest.CaptureFixture[str]) -> None:
    refusing = Service({"code": "overloaded", "detail": "later"}, status=429)
    with pytest.raises(UnreachableError, match="HTTP 429 overloaded: later"):
        explain_service(refusing, Question(QUERY))  # type: ignore[arg-type]
    with pytest.raises(UnreachableError, match="two came to serve meanwhile"):
        explain_service(Service(answer("a"), answer("a", snapshot="two")), Question(QUERY))  # type: ignore[arg-type]
    with pytest.raises(UnreachableError, match="look at the URL"):
        explain_service(Service({"hits": []}), Question(QUERY))  # type: ignore[arg-type]
    assert or_error(lambda: print(explain_service(Service(), Question(QUERY, effort=3))) or 0, as_json=False) == 2  # type: ignore[arg-type]
    assert "plans its own" in capsys.readouterr().err


def test_a_filter_is_an_object() -> None:
    assert parse_filter(None) is None
    assert parse_filter('{"kind": {"$in": ["a"]}}') == {"kind": {"$in": ["a"]}}


def test_a_query_in_another_encoding_than_utf8_is_refused_in_a_line(registry: Path) -> None:
    ended = CliRunner().invoke(app, ["explain", "p\udce9che", "--registry", str(registry)])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "query: is no UTF-8" in ended.stderr


def test_a_filter_that_leaves_nothing_is_what_every_step_says(registry: Path) -> None:
    code, printed, _ = explain(registry, "--json", "--filter", '{"kind": "none such"}')
    assert code == 0
    assert {step["note"] for step in json.loads(printed)["steps"]} == {"no document is eligible"}
