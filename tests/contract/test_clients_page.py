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


def test_every_language_is_there() -> None:
    assert {language for language, _ in EXAMPLES} == set(PROGRAMS)


@pytest.mark.parametrize(("language", "text"), EXAMPLES, ids=[f"{i}-{language}" for i, (language, _) in enumerate(EXAMPLES)])
def test_the_example_finds_the_best_hit(language: str, text: str, running: live.Live, tmp_path: Path) -> None:
    program, name = PROGRAMS[language]
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    patient = re.sub(r"\b900\b", "30000", text).replace("--max-time 1 ", "")
    file = tmp_path / name
    file.write_text(patient.replace("localhost:8000", f"127.0.0.1:{running.port}"))
    ended = subprocess.run(
        [*program, str(file)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    query = "join two paths" if "search_batch" in text else "join two paths together"
    _, answer = running.get("/search", {"query": query, "k": 3})
    assert answer["hits"][0]["id"] in re.findall(r"[\w.-]+", ended.stdout), ended.stdout
