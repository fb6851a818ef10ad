"""Debian's Prometheus in a process of its own, on the loopback, with the rules of deploy/ at a pace that a test can wait for."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
RULES = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
INSTALL = "apt-get install -y --no-install-recommends prometheus"
_POLL_SECONDS = 0.1
_WINDOWS = {"5m": "5s", "10m": "5s", "15m": "20s", "30m": "6s", "35m": "7s", "1h": "6s", "6h": "7s", "3d": "8s", "30d": "60s"}
"""In place of what rules look back over; a refused snapshot is tried again well within the third."""
_WAITS = {"1m": "1s", "2m": "1s", "3m": "2s", "5m": "1s", "10m": "2s", "15m": "2m", "30m": "2m", "1h": "2s"}
"""In place of ``for``."""


def executable(name: str) -> str:
    """Where it is; the tests are left out without it, but not in CI."""
    found = shutil.which(name)
    if found is None:
        reason = f"the rules are not tested: no {name} is installed (Debian: {INSTALL})"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return found


def hastened(rules: Mapping[str, Any]) -> dict[str, Any]:
    """The same rules, over seconds in place of minutes."""
    copied: dict[str, Any] = json.loads(json.dumps(rules))
    for group in copied["groups"]:
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"(?<=[\[:])(\d+\w)(?=[:\]])", lambda found: _WINDOWS[found[1]], rule["expr"])
            if "for" in rule:
                rule["for"] = _WAITS[rule["for"]]
    return copied


class Prometheus:
    """One that runs."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self._port = port
        self._process = process
        self._log = log

    def get(self, path: str, **parameters: str) -> Any:
        """``data`` of an answer of the HTTP API."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def values(self, expr: str) -> list[float]:
        """Of every series that a query has now, those that are no number left out."""
        found = [float(series["value"][1]) for series in self.get("query", query=expr)["result"]]
        return [value for value in found if value == value]

    def firing(self) -> set[str]:
        return {alert["labels"]["alertname"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"}

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
        """Ask until the answer is true, and give it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            if found := condition():
                return found
            time.sleep(_POLL_SECONDS)
        raise AssertionError(f"not {what} within {seconds:g} s; firing: {self.firing()}")


@contextmanager
def prometheus(folder: Path, target_port: int) -> Iterator[Prometheus]:
    """One that scrapes a service of this machine, with its data and log below ``folder``, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "prometheus.yml"
    scrape = {"job_name": "scalingnote", "static_configs": [{"targets": [f"127.0.0.1:{target_port}"]}]}
    pace = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    for path in RULES:
        (folder / path.name).write_text(yaml.safe_dump(hastened(yaml.safe_load(path.read_text()))))
    config.write_text(yaml.safe_dump({"global": pace, "rule_files": [path.name for path in RULES], "scrape_configs": [scrape]}))
    flags = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}"]
    flags.append("--enable-feature=exemplar-storage")
    log = folder / "prometheus.log"
    with log.open("w") as said:
        process = subprocess.Popen([executable("prometheus"), *flags], stdout=said, stderr=said)
    running = Prometheus(port, process, log)
    try:
        running.until(lambda: _ready(port), "ready")
        yield running
    finally:
        process.terminate()
        process.wait(20)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
