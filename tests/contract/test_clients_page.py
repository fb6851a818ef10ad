"""Every example of docs/clients.md, run as it stands but for the port and its budget, finds what the service finds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import live
import pytest
from balancer_page import FOUND, balancing
from serving import make_registry

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/clients.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PROGRAMS = {
    "sh": (["bash"], "example.sh"),
    "python": ([sys.executable], "example.py"),
    "javascript": (["node"], "example.mjs"),
    "go": (["go", "run"], "example.go"),
}

PAST = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Live]:
    folder: Path = tmp_path_factory.mktemp("clients-page")
    make_registry(folder / "registry")
    service = live.start(folder, folder / "registry", "--max-timeout-ms", "60000")
    try:
        live.until(service, service.ready, "ready")
        yield service
    finally:
        service.stop()


@pytest.fixture(params=["javascript", "go"])
def by_hand(request: pytest.FixtureRequest) -> tuple[str, str]:
    """An example that has the loop of ``service.client`` in itself."""
    return next(found for found in EXAMPLES if found[0] == request.param)


def test_every_language_is_there() -> None:
    assert {language for language, _ in EXAMPLES} == set(PROGRAMS)


def run(language: str, text: str, port: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """An example with time enough, at a port of 127.0.0.1."""
    program, name = PROGRAMS[language]
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    patient = re.sub(r"\b900\b", "30000", text).replace("--max-time 1 ", "")
    file = folder / name
    file.write_text(patient.replace("localhost:8000", f"127.0.0.1:{port}"))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([*program, str(file)], capture_output=True, text=True, timeout=120, check=False, env=environment)


@pytest.mark.parametrize(("language", "text"), EXAMPLES, ids=[f"{i}-{language}" for i, (language, _) in enumerate(EXAMPLES)])
def test_the_example_finds_the_best_hit(language: str, text: str, running: live.Live, tmp_path: Path) -> None:
    ended = run(language, text, running.port, tmp_path)
    assert ended.returncode == 0, ended.stderr
    query = "join two paths" if "search_batch" in text else "join two paths together"
    _, answer = running.get("/search", {"query": query, "k": 3})
    assert answer["hits"][0]["id"] in re.findall(r"[\w.-]+", ended.stdout), ended.stdout


def test_a_balancers_own_page_is_waited_for_as_its_header_says(by_hand: tuple[str, str], tmp_path: Path) -> None:
    with balancing("0", PAST) as balancer:
        ended = run(*by_hand, balancer.server_port, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert FOUND["hits"][0]["id"] in ended.stdout
    assert balancer.asked == 3


@pytest.mark.parametrize("retry_after", [None, "3600", "soon"])
def test_where_there_is_no_time_to_ask_again_the_status_is_said(
    by_hand: tuple[str, str], retry_after: str | None, tmp_path: Path
) -> None:
    with balancing(retry_after) as balancer:
        ended = run(*by_hand, balancer.server_port, tmp_path)
    assert ended.returncode != 0
    assert "503 unnamed: Service Unavailable" in ended.stderr
    assert balancer.asked == 1
