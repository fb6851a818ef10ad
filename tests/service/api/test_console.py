"""The console is served whole, from here alone, under a policy that allows nothing else."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from serving import Client

SCRIPTS = sorted(path.name for path in files("service").joinpath("console").iterdir() if path.name.endswith(".js"))


def imported(script: str) -> list[str]:
    return re.findall(r'from "\./([^"]+)"', script)


def test_the_page_and_what_it_names_are_served(client: Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    names = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {"/console/console.js", "/console/style.css"} <= set(names)
    names += [f"/console/{name}" for name in imported(client.get("/console/console.js").text)]
    for name in names:
        if not name.startswith("data:"):
            assert client.get(name).status_code == 200, name


def test_nothing_comes_from_elsewhere_and_no_script_is_inline(client: Client) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for text in (page.text, *(client.get(f"/console/{name}").text for name in (*SCRIPTS, "style.css"))):
        assert not re.search(r"https?://(?!www\.w3\.org/)", text)
    assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=", page.text)


@pytest.mark.parametrize("name", SCRIPTS)
def test_values_are_never_read_as_markup(client: Client, name: str) -> None:
    script = client.get(f"/console/{name}").text
    assert set(imported(script)) <= set(SCRIPTS)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)
