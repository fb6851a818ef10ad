"""Settings: flags over environment over defaults; wrong ones are named."""

from pathlib import Path

import pytest

from service.errors import SettingsError
from service.settings import load_settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REGISTRY", "PORT", "MAX_K", "DEFAULT_TIMEOUT_MS"):
        monkeypatch.delenv(f"SCALINGNOTE_{name}", raising=False)


def test_flags_win_over_the_environment_and_that_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALINGNOTE_PORT", "9001")
    monkeypatch.setenv("SCALINGNOTE_MAX_K", "50")
    settings = load_settings({"registry": "here", "port": "9002"})
    assert (settings.registry, settings.port, settings.max_k, settings.host) == (Path("here"), 9002, 50, "127.0.0.1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "registry: Field required (set --registry or SCALINGNOTE_REGISTRY)"),
        ({"port": "http"}, "port: "),
        ({"port": "70000"}, "port: "),
        ({"max_timeout_ms": "nan"}, "max_timeout_ms: "),
        ({"default_timeout_ms": "500", "max_timeout_ms": "100"}, "default_timeout_ms 500 is above max_timeout_ms 100"),
        ({"max_k": "20", "max_window": "10"}, "max_k 20 is above max_window 10"),
        ({"live_worst_queries_file": "x"}, "live_worst_queries_file needs live_worst_queries"),
        ({"live_cpu_share": "0"}, "live_cpu_share: "),
        ({"log_format": "xml"}, "log_format: "),
        ({"concurrency_limit": "none"}, "concurrency_limit: "),
        ({"batch_share": "0.5"}, "batch_share: "),
        ({"nonsense": "1"}, "nonsense: "),
    ],
)
def test_a_wrong_setting_is_named_with_both_ways_to_set_it(given: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(given if not given else {"registry": "here", **given})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_do_not_change() -> None:
    settings = load_settings({"registry": "here"})
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1
