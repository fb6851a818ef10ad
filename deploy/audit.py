"""Ask the advisory service (OSV) about every package of the locks, by pip-audit; 1 where one has a known vulnerability.

Where that service cannot be reached, one line says so and the exit code is 0: a check that needs the internet must not stop
those who have none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

OSV = "https://api.osv.dev/v1/query"
_PROBE = {"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "0"}


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    obstacle = _obstacle(options.url, options.wait_seconds)
    if obstacle:
        return _not_audited(options.url, obstacle)
    ended = subprocess.run(_command(options), capture_output=True, text=True, check=False)
    report = _json(ended.stdout)
    if report is not None:
        return _tell(report)
    obstacle = _obstacle(options.url, options.wait_seconds)
    if obstacle:
        return _not_audited(options.url, f"it was there, and then: {obstacle}")
    print(f"pip-audit did not finish:\n{ended.stderr}", file=sys.stderr)
    return 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("locks", nargs="+", type=Path, help="hashed requirements files")
    parser.add_argument("--url", default=OSV, help="the advisory service's query address")
    parser.add_argument("--wait-seconds", type=float, default=5.0, help="for one answer of it")
    parser.add_argument("--ignore", action="append", default=[], metavar="ID", help="a vulnerability that does not concern us")
    return parser.parse_args(arguments)


def _obstacle(url: str, wait_seconds: float) -> str | None:
    """Why the service gives no answer, or None. Never waits longer, not even for a name to be looked up."""
    found = [f"no answer within {wait_seconds:g} s"]

    def ask() -> None:
        try:
            body = json.dumps(_PROBE).encode()
            with urllib.request.urlopen(urllib.request.Request(url, body), timeout=wait_seconds) as answer:  # noqa: S310 - by whoever calls
                answer.read()
            found.clear()
        except (OSError, ValueError) as error:  # URLError is an OSError
            found[:] = [str(error)]

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(wait_seconds)
    return next(iter(found), None)


def _command(options: argparse.Namespace) -> list[str]:
    locks = [word for lock in options.locks for word in ("--requirement", str(lock))]
    ignored = [word for one in options.ignore for word in ("--ignore-vuln", one)]
    service = ["--vulnerability-service", "osv", "--osv-url", options.url, "--timeout", str(max(1, round(options.wait_seconds)))]
    fixed = ["--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    return [sys.executable, "-m", "pip_audit", *fixed, *service, *ignored, *locks]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _tell(report: Any) -> int:
    packages = report["dependencies"]
    faulty = [one for one in packages if one.get("vulns")]
    for one in faulty:
        for fault in one["vulns"]:
            fixed = ", ".join(fault["fix_versions"]) or "no version yet"
            print(
                f"{one['name']} {one['version']}: {fault['id']}, fixed in {fixed}: {fault['description'][:200]}", file=sys.stderr
            )
    print(f"{len(packages)} packages audited, {len(faulty)} with known vulnerabilities")
    return 1 if faulty else 0


def _not_audited(url: str, obstacle: str) -> int:
    print(f"dependencies are not audited: {url} cannot be reached from here ({obstacle})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
