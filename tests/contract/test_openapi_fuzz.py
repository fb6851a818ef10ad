"""Schemathesis against a service that runs: whatever it sends, no fault, and no answer that the document does not declare."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import live
import pytest
from make_snapshot import make_snapshot
from serving import TOKEN, make_registry, tokens_file

pytestmark = pytest.mark.slow

EXAMPLES = "5"
"""A route and phase; a few hundred requests in all."""
CONFIG = """
warnings = false

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "504"]  # a budget that nothing can keep is answered 504

[checks.positive_data_acceptance]
enabled = false  # what settings and snapshot allow (max_k, columns of filters) is not in the document
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Live]:
    """Two snapshots, an operator's token and an API key, so that every route can be used."""
    folder: Path = tmp_path_factory.mktemp("fuzzed")
    registry = make_registry(folder / "registry", rows=60).root
    make_snapshot(registry, rows=60, seed=1)
    keys = folder / "keys"
    keys.write_text(json.dumps({"name": "fuzz", "sha256": sha256(b"fuzz").hexdigest()}))
    flags = ("--admin-tokens-file", str(tokens_file(folder)), "--api-keys-file", str(keys), "--max-timeout-ms", "60000")
    running = live.start(folder, registry, *flags, "--default-timeout-ms", "60000")
    try:
        live.until(running, running.ready, "ready")
        yield running
    finally:
        running.stop()


def faults_of(service: live.Live) -> dict[str, float]:
    """What it counts itself; /readyz may have been asked before it was ready."""
    return {series: count for series, count in service.metrics().items() if re.match(r'requests_total\{code="5(?!04)', series)}


def test_nothing_makes_it_fail_or_answer_what_is_not_declared(service: live.Live, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    url = f"http://127.0.0.1:{service.port}/openapi.json"
    headers = ("-H", f"Authorization: Bearer {TOKEN}", "-H", "X-API-Key: fuzz")
    options = ("--max-examples", EXAMPLES, "--seed", "1", "--generation-database", "none", "--no-color")
    faults = faults_of(service)
    ended = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", url, *headers, *options],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    said = f"{ended.stdout[-6000:]}\n{ended.stderr[-2000:]}"
    assert ended.returncode == 0, said
    _, document = service.get("/openapi.json")
    operations = sum(len(path) for path in document["paths"].values())
    assert re.search(rf"Tested: {operations}\b", ended.stdout), said
    assert int(re.findall(r"(\d+) generated", ended.stdout)[0]) > 10 * operations, said
    assert faults_of(service) == faults
    answered = service.metrics()
    assert answered["unhandled_errors_total"] == 0
    codes = {code for series in answered for code in re.findall(r'requests_total\{code="(\d+)"', series) if answered[series]}
    assert {"200", "404", "405", "422"} <= codes
    assert not [line for line in service.log_lines() if line["level"] == "critical" or line["event"] == "unhandled_error"]
