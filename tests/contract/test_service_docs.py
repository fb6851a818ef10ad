"""Settings, metrics and routes: the pages say what the code does, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import composed, make_registry

from service.parts import Parts
from service.reference import render_configuration, render_openapi

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    folder = tmp_path_factory.mktemp("registry")
    make_registry(folder)
    with composed(folder) as parts:
        yield parts


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_the_configuration_page_is_up_to_date() -> None:
    assert page("configuration.md") == render_configuration(), "run: python -m service configuration > docs/configuration.md"


def test_the_openapi_document_is_up_to_date() -> None:
    assert page("openapi.json") == render_openapi(), (
        "the API has changed: say so in CHANGELOG.md, then run: python -m service openapi > docs/openapi.json"
    )


def test_every_metric_is_described_and_every_described_metric_exists(serving: Parts) -> None:
    metrics = serving.metrics
    described = dict(re.findall(r"^\| `(scalingnote_\w+)` \| (\w+) \|", page("metrics.md"), flags=re.MULTILINE))
    exported = {
        metric.name + ("_total" if metric.type == "counter" else ""): metric.type
        for metric in metrics.registry.collect()
        if metric.name.startswith("scalingnote_")
    }
    assert described == exported


def test_every_label_of_a_metric_is_described(serving: Parts) -> None:
    metrics = serving.metrics
    metrics.routes(["/search"])
    rows = dict(re.findall(r"^\| `(scalingnote_\w+)` \| \w+ \| ([^|]*)\|", page("metrics.md"), flags=re.MULTILINE))
    for metric in metrics.registry.collect():
        name = metric.name + ("_total" if metric.type == "counter" else "")
        if name in rows and name != "scalingnote_build_info":
            labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
            assert labels <= set(re.findall(r"`(\w+)`", rows[name])), name


def test_every_route_is_on_the_api_page() -> None:
    paths = re.findall(r'^  "(/[^"]*)": \{$', page("openapi.json"), flags=re.MULTILINE)
    assert len(paths) > 10
    assert [path for path in paths if f"`{path}`" not in page("api.md") and f" {path}`" not in page("api.md")] == []


def test_every_error_code_is_on_the_api_page() -> None:
    errors = (Path(__file__).parents[2] / "service" / "errors.py").read_text(encoding="utf-8")
    started_with = {"settings_invalid", "address_unavailable", "service_unreachable"}  # end the process instead of answering
    codes = set(re.findall(r'^    code = "(\w+)"', errors, flags=re.MULTILINE)) - started_with
    assert [code for code in sorted(codes) if f"`{code}`" not in page("api.md")] == []
