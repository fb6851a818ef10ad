"""Settings: flags over environment over defaults; wrong ones are named."""

from pathlib import Path

import pytest

from service.errors import SettingsError
from service.settings import Settings, load_settings, variable


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
        ({"registry": "s3://bucket/prefix"}, "registry: s3://bucket/prefix: "),
        ({"remote_registry": "ftp://host/prefix"}, "remote_registry: ftp://host/prefix: not a remote registry"),
        ({"remote_registry": "s3:/x"}, "remote_registry: s3:/x: neither a URL nor a folder; write s3://BUCKET/PREFIX"),
        ({"remote_registry": "s3://bucket/prefix?x=1"}, "remote_registry: s3://bucket/prefix: "),
        ({"access_log": "0.5"}, "access_log: "),
        ({"access_log_sample": "1.5"}, "access_log_sample: "),
        ({"otel_traces_sampler_arg": "2"}, "(set --otel-traces-sampler-arg or OTEL_TRACES_SAMPLER_ARG)"),
        ({"otel_bsp_max_queue_size": "100"}, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE 512 is above OTEL_BSP_MAX_QUEUE_SIZE 100"),
    ],
)
def test_a_wrong_setting_is_named_with_both_ways_to_set_it(given: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(given if not given else {"registry": "here", **given})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_opentelemetry_names_has_its_variables_and_empty_ones_are_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "TraceIDRatio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "")
    settings = load_settings({"registry": "here", "otel_traces_sampler_arg": "0.5"})
    assert (settings.otel_traces_sampler, settings.otel_traces_sampler_arg) == ("traceidratio", 0.5)
    assert settings.otel_bsp_schedule_delay == 5000


@pytest.mark.parametrize("value", ["", "jaeger_remote"])
def test_a_sampler_that_is_not_known_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", value)
    if value:
        with pytest.raises(SettingsError, match=r"otel_traces_sampler: .* or OTEL_TRACES_SAMPLER"):
            load_settings({"registry": "here"})
    else:
        assert load_settings({"registry": "here"}).otel_traces_sampler == "parentbased_always_on"


def test_settings_do_not_change() -> None:
    settings = load_settings({"registry": "here"})
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


def test_an_empty_value_unsets_what_may_be_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    of_paths = {name for name, field in Settings.model_fields.items() if field.annotation == Path | None}
    paths = of_paths - {"api_keys_file"}
    assert {"admin_tokens_file", "gate_required_ids", "live_worst_queries_file", "milvus_token_file"} <= {*paths}
    others = ("remote_registry", "threads", "max_connections", "milvus_uri", "trusted_keys")
    for name in (*paths, *others):
        monkeypatch.setenv(variable(name), "")
    settings = load_settings({"registry": "here"})
    assert {getattr(settings, name) or None for name in (*paths, *others)} == {None}
    monkeypatch.setenv("SCALINGNOTE_ADMIN_TOKENS_FILE", "tokens")
    assert load_settings({"registry": "here", "admin_tokens_file": ""}).admin_tokens_file is None


@pytest.mark.parametrize("name", ["registry", "port", "max_k", "api_keys_file"])
def test_an_empty_value_of_what_cannot_be_unset_is_wrong(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"SCALINGNOTE_{name.upper()}", "")
    with pytest.raises(SettingsError, match=rf"{name}: .* \(set --{name.replace('_', '-')} or SCALINGNOTE_{name.upper()}\)"):
        load_settings({} if name == "registry" else {"registry": "here"})
