"""Rules, their unit tests, and the pages that they send people to."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml
from real_prometheus import ROOT, RULES, executable

TESTS = sorted((ROOT / "deploy/prometheus/tests").glob("*.yml"))
ALERTS = [
    rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"] if "alert" in rule
]
RUNBOOK = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


SECTIONS = {anchor(heading): heading for heading in re.findall(r"^## (.*)$", RUNBOOK, re.MULTILINE)}


def promtool(*arguments: str) -> str:
    done = subprocess.run([executable("promtool"), *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_finds_nothing_wrong_with_configuration_and_rules() -> None:
    said = promtool("check", "config", "--lint-fatal", str(ROOT / "deploy/prometheus/prometheus.yml"))
    assert said.count("rules found") == len(RULES)


@pytest.mark.slow
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_alerts_fire_on_their_fault_and_are_silent_otherwise(path) -> None:
    assert "SUCCESS" in promtool("test", "rules", str(path))


def test_every_alert_has_a_case_that_fires_it_and_each_severity_of_it() -> None:
    fired = set(re.findall(r'alertname="(\w+)", severity="(\w+)"', "".join(path.read_text() for path in TESTS)))
    assert fired == {(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels'].get('burn', '')}")
def test_an_alert_says_how_bad_it_is_what_it_means_and_what_to_do(rule) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    page, _, section = rule["annotations"]["runbook_url"].partition("#")
    assert page == "docs/runbook.md"
    assert section in SECTIONS


def test_the_runbook_lists_every_alert_with_its_severities_and_section() -> None:
    listed = re.findall(r"^\| `(ScalingNote\w+)` \| ([\w, ]+) \| \[(.*)\]\(#(.*)\) \|$", RUNBOOK, re.MULTILINE)
    severities: dict[str, dict[str, None]] = {}
    for rule in ALERTS:
        severities.setdefault(rule["alert"], {})[rule["labels"]["severity"]] = None
    sections = {rule["alert"]: rule["annotations"]["runbook_url"].partition("#")[2] for rule in ALERTS}
    assert {name: (said, link) for name, said, _, link in listed} == {
        name: (", ".join(severities[name]), sections[name]) for name in severities
    }
    assert [heading for _, _, heading, link in listed if SECTIONS[link] != heading] == []


def test_links_within_the_runbook_lead_to_a_section() -> None:
    assert [link for link in re.findall(r"\]\(#([^)]+)\)", RUNBOOK) if link not in SECTIONS] == []
