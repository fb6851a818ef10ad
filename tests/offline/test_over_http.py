"""A service in memory, whose answers are known."""

import json

import httpx
import pyarrow as pa
import pytest

from offline.data.prepared import QRELS, QUERIES, Prepared, write_table
from offline.errors import DataError, ServiceError
from offline.metrics import MRR, NDCG, RECALL_10, RECALL_100
from offline.over_http import evaluate_service, read_key
from offline.recipe import Recipe
from service.headers import SYNTHETIC

URL = "http://service.test"
RECIPE = Recipe.model_validate({"name": "t", "evaluate": {"bootstrap": 50}})
DOCUMENTS = [f"d{row}" for row in range(200)]


@pytest.fixture
def prepared(tmp_path):
    queries = [{"id": "a", "text": "first", "split": "test"}, {"id": "b", "text": "second", "split": "test"}]
    qrels = [{"split": "test", "query_id": "a", "row": 3, "score": 1}, {"split": "test", "query_id": "b", "row": 150, "score": 1}]
    write_table(pa.Table.from_pylist(queries, QUERIES), tmp_path / "queries.arrow")
    write_table(pa.Table.from_pylist(qrels, QRELS), tmp_path / "qrels.arrow")
    write_table(pa.table({"id": DOCUMENTS}), tmp_path / "documents.arrow")
    return Prepared(tmp_path)


class Service:
    """Answers /search from ``hits[query]``, and keeps the bodies it was sent."""

    def __init__(self, **hits):
        self.hits = hits
        self.bodies = []
        self.snapshots = ["s1"]
        self.degraded = None

    def __call__(self, request):
        body = json.loads(request.content)
        self.bodies.append(body)
        assert request.headers["x-synthetic-request"] == "1"  # judged queries are no live ones
        found = [{"id": name, "score": 1.0, "fields": {}} for name in self.hits[body["query"]][: body["k"]]]
        snapshot = self.snapshots[len(self.bodies) % len(self.snapshots)]
        return httpx.Response(200, json={"hits": found, "snapshot": snapshot, "degraded": self.degraded})


def measure(prepared, answer):
    return evaluate_service(URL, prepared, RECIPE, transport=httpx.MockTransport(answer))


def test_metrics_are_those_of_the_returned_ids(prepared):
    service = Service(first=["d9", "d3"], second=DOCUMENTS[50:200])
    found = measure(prepared, service)
    assert {name: one.estimate for name, one in found.metrics.items()} == pytest.approx(
        {NDCG: (1 / 1.5849625 + 0) / 2, RECALL_10: 0.5, RECALL_100: 0.5, MRR: 0.25}
    )
    assert (found.snapshot, found.split, found.queries, found.degraded) == ("s1", "test", 2, 0)
    assert 0 < found.p50_ms <= found.p99_ms
    assert "nDCG@10 0.315" in found.describe()


def test_the_service_is_asked_for_approximate_search_with_all_the_time_in_the_world(prepared):
    service = Service(first=[], second=[])
    measure(prepared, service)
    assert [(body["query"], body["k"]) for body in service.bodies] == [
        ("first", 10),
        ("first", 100),
        ("second", 10),
        ("second", 100),
    ]
    assert all(body["exact"] is False and body["fields"] == [] and body["timeout_ms"] > 1e6 for body in service.bodies)


def test_the_document_with_the_id_of_the_query_is_no_answer(tmp_path):
    queries = [{"id": name, "text": name, "split": "test"} for name in ("d7", "q")]
    qrels = [{"split": "test", "query_id": name, "row": 3, "score": 1} for name in ("d7", "q")]
    write_table(pa.Table.from_pylist(queries, QUERIES), tmp_path / "queries.arrow")
    write_table(pa.Table.from_pylist(qrels, QRELS), tmp_path / "qrels.arrow")
    write_table(pa.table({"id": DOCUMENTS}), tmp_path / "documents.arrow")
    others = DOCUMENTS[50:58]
    service = Service(d7=["d7", *others, "d99", "d3"], q=["d7", *others, "d3"])
    found = measure(Prepared(tmp_path), service)
    assert [body["k"] for body in service.bodies] == [11, 101, 10, 100]
    assert (found.metrics[RECALL_10].estimate, found.metrics[MRR].estimate) == (1.0, pytest.approx(0.1))
    assert found.with_own == 1
    assert "the document with the query's own id is left out for 1 queries" in found.describe()


def test_degraded_answers_are_counted(prepared):
    service = Service(first=["d3"], second=["d150"])
    service.degraded = {"causes": ["deadline_effort"], "expected_recall": 0.9}
    assert measure(prepared, service).degraded == 4


def test_a_snapshot_of_other_data_is_refused(prepared):
    with pytest.raises(ServiceError, match="returned the document 'x', which is not in the data"):
        measure(prepared, Service(first=["x"], second=[]))


def test_a_swap_in_the_middle_is_refused(prepared):
    service = Service(first=[], second=[])
    service.snapshots = ["s1", "s2"]
    with pytest.raises(ServiceError, match=r"swapped meanwhile \(s1, s2\)"):
        measure(prepared, service)


def test_an_error_is_passed_on(prepared):
    with pytest.raises(ServiceError, match="status 503 to the query 'first': not ready"):
        measure(prepared, lambda request: httpx.Response(503, text="not ready"))


def test_another_service_is_noticed(prepared):
    with pytest.raises(ServiceError, match="not an answer to /search"):
        measure(prepared, lambda request: httpx.Response(200, json={"hello": 1}))


def test_no_service(prepared):
    def refuse(request):
        raise httpx.ConnectError("connection refused")

    with pytest.raises(ServiceError, match="is the service running there"):
        measure(prepared, refuse)


def test_nothing_to_ask(tmp_path):
    write_table(pa.Table.from_pylist([], QUERIES), tmp_path / "queries.arrow")
    write_table(pa.Table.from_pylist([], QRELS), tmp_path / "qrels.arrow")
    with pytest.raises(DataError, match="no judged queries"):
        measure(Prepared(tmp_path), Service())


def test_a_service_that_wants_a_key_gets_the_one_of_the_file_and_says_so_without(prepared, tmp_path):
    file = tmp_path / "key"
    file.write_text("sn_secret\n")
    service = Service(first=["d3"], second=["d9"])

    def answer(request):
        assert request.headers[SYNTHETIC] == "1"
        if request.headers.get("x-api-key") != "sn_secret":
            return httpx.Response(401, json={"code": "key_unknown"})
        return service(request)

    found = evaluate_service(URL, prepared, RECIPE, read_key(file), transport=httpx.MockTransport(answer))
    assert found.queries == 2
    with pytest.raises(ServiceError, match="--key-file"):
        evaluate_service(URL, prepared, RECIPE, read_key(None), transport=httpx.MockTransport(answer))


@pytest.mark.parametrize("content", [b"", b"a\nb", b"\xff"])
def test_what_holds_no_key_is_named(content, tmp_path):
    (tmp_path / "key").write_bytes(content)
    for path in (tmp_path / "key", tmp_path / "missing"):
        with pytest.raises(ServiceError, match="holds no API key"):
            read_key(path)
