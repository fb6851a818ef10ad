"""Variables that are misspelt are named with what was meant; those of others are left alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.settings import described_settings
from service.settings_unknown import unknown_variables, warn_of_unknown

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SCALINGNOTE_PORTT", "SCALINGNOTE_PORT"),
        ("SCALINGNOTE_REQUIRE_SIGNATUR", "SCALINGNOTE_REQUIRE_SIGNATURE"),
        ("scalingnote_registery", "SCALINGNOTE_REGISTRY"),
        ("SCALINGNOTE_ADMIN_TOKENS", "SCALINGNOTE_ADMIN_TOKENS_FILE"),
        ("SCALINGNOTE_XQZ", None),
    ],
)
def test_a_misspelt_variable_is_named_with_what_was_meant(name: str, meant: str | None) -> None:
    assert unknown_variables({name: "a secret", "PATH": "/bin"}) == {name: meant}


def test_settings_are_known_in_any_case() -> None:
    names = [setting.variable for setting in described_settings()]
    assert unknown_variables(dict.fromkeys([*names, *map(str.lower, names)], "1")) == {}


def test_what_other_parts_and_kubernetes_set_is_left_alone() -> None:
    files = [ROOT / "docker-compose.yml", ROOT / "deploy/haproxy/haproxy.cfg", ROOT / "tests/remote_engines.py"]
    named = {name for path in files for name in re.findall(r"SCALINGNOTE_[A-Z_]+", path.read_text(encoding="utf-8"))}
    links = {"SCALINGNOTE_SERVICE_HOST", "SCALINGNOTE_SERVICE_PORT_HTTP", "SCALINGNOTE_PORT_8000_TCP_ADDR"}
    assert unknown_variables(dict.fromkeys(named | links, "1")) == {}
    assert unknown_variables({"SCALINGNOTE_BALANCER_STATS_PORT": "tcp://10.0.0.1:80"}) == {}


def test_the_log_names_each_and_no_value() -> None:
    with capture_logs() as lines:
        warn_of_unknown({"SCALINGNOTE_REQUIRE_SIGNATUR": "a secret", "SCALINGNOTE_PORT": "1"})
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("setting_unknown", "warning")
    assert (line["variable"], line["did_you_mean"]) == ("SCALINGNOTE_REQUIRE_SIGNATUR", "SCALINGNOTE_REQUIRE_SIGNATURE")
    assert "a secret" not in str(line)
