"""The page of routes: complete without anything from elsewhere, under a policy that would refuse it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from serving import Client, client_of, make_registry

from service.api import docs


def test_everything_that_the_page_loads_is_served_here(client: Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert [path for path in loaded if not path.startswith(("/docs/", "data:"))] == []
    assets = [client.get(path) for path in loaded if path.startswith("/")]
    assert [asset.status_code for asset in assets] == [200] * 3
    assert "SwaggerUIBundle" in assets[1].text
    assert "/openapi.json" in assets[2].text


def test_the_policy_lets_no_script_but_its_own_files_run(client: Client) -> None:
    page = client.get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert re.findall(r"<script>|<style>| on\w+=", page.text) == []


def test_without_the_package_there_is_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_registry(tmp_path)
    monkeypatch.setattr(docs, "PACKAGE", "no_such_package")
    with client_of(tmp_path) as client:
        assert client.get("/docs").status_code == 404
