"""The files that deploy the service speak of things that exist."""

import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import promql_parser
import pytest
import yaml
from serving import composed

from service.settings import Settings

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
RULES = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
ADAPTER = ROOT / "deploy/kubernetes/components/autoscaling/adapter-rules.yaml"
IMAGE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Names of every series that the service can export."""
    with composed(tmp_path_factory.mktemp("registry")) as parts:
        families = list(parts.metrics.registry.collect())
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    return {metric.name + suffix for metric in families for suffix in suffixes.get(metric.type, [""])}


def expressions(node):
    """Every PromQL expression under ``node``."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key in {"expr", "definition", "seriesQuery", "metricsQuery"})
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from expressions(child)


def metrics_in(text):
    """Names of our own and of the process's metrics; label matchers hold none."""
    return re.findall(r"\b(?:scalingnote|process|python)_[a-z0-9_]+", re.sub(r'"[^"]*"', "", text))


@pytest.mark.parametrize("path", [*DASHBOARDS, *RULES, ADAPTER], ids=lambda path: path.name)
def test_every_metric_that_is_asked_for_is_exported(path, exported):
    names = {name for expr in expressions(yaml.safe_load(path.read_text())) for name in metrics_in(expr)}
    assert names
    assert names <= exported


def test_the_runbook_asks_in_promql_for_metrics_that_are_exported(exported):
    blocks = re.findall(r"```promql\n(.*?)```", (ROOT / "docs/runbook.md").read_text(), re.DOTALL)
    queries = [line for block in blocks for line in block.splitlines()]
    for query in queries:
        promql_parser.parse(query)
        assert set(metrics_in(query)) <= exported, query
    assert any("scalingnote_cgroup_cpu_throttled_periods_total" in query for query in queries)


def test_the_adapter_asks_in_promql():
    for rule in yaml.safe_load(ADAPTER.read_text())["rules"]:
        labels = rule["resources"]["overrides"]
        query = rule["metricsQuery"].replace("<<.GroupBy>>", ",".join(labels))
        promql_parser.parse(query.replace("<<.LabelMatchers>>", ",".join(f'{label}="a"' for label in labels)))
        promql_parser.parse(rule["seriesQuery"])


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_panels_have_their_own_ids_and_do_not_overlap(path):
    panels = json.loads(path.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_compose_mounts_what_the_repository_has():
    mounts = [mount.split(":")[0] for service in COMPOSE["services"].values() for mount in service["volumes"]]
    assert len(mounts) >= len(COMPOSE["services"])
    folders = {mount for mount in mounts if mount.startswith("./")} - {"./registry"}
    assert folders
    assert all((ROOT / folder).is_dir() for folder in folders)
    assert {mount for mount in mounts if not mount.startswith("./")} == set(COMPOSE["volumes"])


def test_compose_publishes_on_the_loopback_only_and_pins_foreign_images():
    services = COMPOSE["services"].values()
    ports = [port for service in services for port in service.get("ports", [])]
    assert len(ports) == len(set(ports)) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)
    foreign = [service["image"] for service in services if "build" not in service]
    assert all(re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[\w/]+:v?\d+\.\d+\.\d+\}", image) for image in foreign)


def test_compose_hardens_every_container():
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True, name
        assert service["tmpfs"] == ["/tmp"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert re.fullmatch(r"(\$\{SCALINGNOTE_MEMORY:-)?\d+g\}?", service["mem_limit"]), name


def test_compose_keeps_the_exemplars_that_dashboards_show():
    assert "--enable-feature=exemplar-storage" in COMPOSE["services"]["prometheus"]["command"]


def test_compose_profiles_stand_on_their_own():
    services = COMPOSE["services"]
    assert {profile for service in services.values() for profile in service["profiles"]} == {"demo", "monitoring", "replicas"}
    for service in services.values():
        for other in service.get("depends_on", []):
            assert set(service["profiles"]) <= set(services[other]["profiles"]), "compose refuses what a profile leaves out"


def test_the_balancer_knows_as_many_replicas_as_there_are():
    template = re.search(r"server-template replica (\d+) (\w+):(\d+)", (ROOT / "deploy/haproxy/compose.cfg").read_text())
    assert template
    assert int(template[1]) == COMPOSE["services"][template[2]]["deploy"]["replicas"]
    assert f"SCALINGNOTE_PORT={template[3]}" in IMAGE
    assert COMPOSE["services"]["balancer"]["ports"] == [f"127.0.0.1:8080:{template[3]}"]


def test_the_image_is_made_in_stages_runs_as_nobody_special_and_says_how_it_is():
    stages = dict(re.findall(r"^FROM \S+ AS (\w[\w-]*)$(.*?)(?=^FROM|\Z)", IMAGE, re.MULTILINE | re.DOTALL))
    assert list(stages)[-1] == "service", "a build without a target makes it"
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11-slim$", IMAGE, re.MULTILINE), "a digest can be given"
    for name in ("service", "offline"):
        assert re.search(r"^USER \d{4,}$", stages[name], re.MULTILINE)
        assert "HEALTHCHECK" in stages[name]
        assert "pip" not in re.sub(r"#.*", "", stages[name]), "what is installed is copied"
    assert stages["service"].index("USER") < stages["service"].index("ENTRYPOINT")


def test_the_image_asks_itself_what_the_service_answers_and_no_proxy():
    [command] = re.findall(r"^HEALTHCHECK .*\n +CMD (\[.*\])$", IMAGE, re.MULTILINE)
    program, *arguments = json.loads(command)
    no_way_out = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    replica = HTTPServer(("127.0.0.1", 0), _Live)
    thread = threading.Thread(target=replica.serve_forever, args=(0.02,))
    thread.start()
    try:
        for path, code in (("/livez", 0), ("/other", 1)):
            _Live.path_answered = path
            done = subprocess.run(
                [sys.executable, *arguments],
                env={**os.environ, **no_way_out, "SCALINGNOTE_PORT": str(replica.server_port)},
                stderr=subprocess.PIPE,
            )
            assert (program, done.returncode) == ("python", code)
    finally:
        replica.shutdown()
        thread.join()
        replica.server_close()


class _Live(BaseHTTPRequestHandler):
    """Answers one path."""

    path_answered = ""

    def do_GET(self):
        self.send_response(200 if self.path == self.path_answered else 404)
        self.end_headers()

    def log_message(self, *_): ...


def test_prometheus_scrapes_the_services_of_the_compose_file():
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    [found] = [found for job in config["scrape_configs"] for found in job["dns_sd_configs"]]
    ours = {name for name, service in COMPOSE["services"].items() if "build" in service}
    assert set(found["names"]) == ours
    assert f"SCALINGNOTE_PORT={found['port']}" in IMAGE


def test_the_container_drains_before_it_is_killed():
    grace_seconds = min(int(COMPOSE["services"][name]["stop_grace_period"].removesuffix("s")) for name in ("service", "replica"))
    assert grace_seconds > Settings(registry=Path("registry")).drain_seconds


def test_locks_hold_no_torch_no_host_and_only_hashed_pins():
    locks = sorted((ROOT / "deploy/requirements").glob("*.txt"))
    assert len(locks) == 4
    for lock in locks:
        lines = lock.read_text().splitlines()
        pins = [line for line in lines if re.match(r"[a-z0-9]", line)]
        assert pins, lock.name
        assert all("==" in pin and pin.endswith("\\") for pin in pins), lock.name
        assert not [line for line in lines if re.match(r"--|(torch|triton|nvidia-.*|cuda-.*)==", line)], lock.name


@pytest.mark.parametrize(
    ("image", "extras"),
    [
        ("service", {"remote", "signing", "docs", "tracing", "milvus"}),
        ("offline", {"offline", "demo", "remote", "milvus", "ray"}),
    ],
)
def test_images_hold_what_their_pages_say_they_can_do(image, extras):
    """Every requirement of these extras is pinned in the lock that the image installs whole."""
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {re.match(r"[\w.-]+", each)[0].lower() for extra in extras for each in optional[extra]} - {"torch"}
    lock = (ROOT / f"deploy/requirements/{image}.txt").read_text()
    assert wanted <= set(re.findall(r"^([a-z0-9.-]+)(?:\[\w,]+\])?==", lock, re.MULTILINE))
    assert (
        f"deploy/requirements/{image}.txt"
        in re.search(rf"^FROM base AS {image}-venv$(.*?)^FROM", IMAGE, re.MULTILINE | re.DOTALL)[1]
    )
    [made] = [
        line for line in (ROOT / "Makefile").read_text().splitlines() if f"--output-file deploy/requirements/{image}.txt" in line
    ]
    assert set(re.findall(r"--extra (\w+)", made)) == extras


def test_make_help_names_every_command():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "serve", "test", "check", "bench", "lock"):
        assert re.search(rf"^  make {target} +\S", listed, re.MULTILINE), target
