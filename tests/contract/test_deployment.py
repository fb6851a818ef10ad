"""The files that deploy the service speak of things that exist."""

import json
import re
import subprocess
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
    folders = {mount for mount in mounts if mount.startswith("./")} - {"./registry"}
    assert folders
    assert all((ROOT / folder).is_dir() for folder in folders)
    assert {mount for mount in mounts if not mount.startswith("./")} == set(COMPOSE["volumes"])


def test_compose_publishes_on_the_loopback_only_and_pins_foreign_images():
    services = COMPOSE["services"].values()
    assert all(port.startswith("127.0.0.1:") for service in services for port in service["ports"])
    assert all(re.search(r":v?\d+\.\d+\.\d+$", service["image"]) for service in services if "build" not in service)


def test_prometheus_scrapes_the_service_of_the_compose_file():
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    targets = [target for job in config["scrape_configs"] for static in job["static_configs"] for target in static["targets"]]
    assert [target.split(":")[0] in COMPOSE["services"] for target in targets] == [True]


def test_the_container_drains_before_it_is_killed():
    grace_seconds = int(COMPOSE["services"]["service"]["stop_grace_period"].removesuffix("s"))
    assert grace_seconds > Settings(registry=Path("registry")).drain_seconds


def test_locks_hold_no_torch_no_host_and_only_hashed_pins():
    for lock in (ROOT / "requirements").glob("*.txt"):
        lines = lock.read_text().splitlines()
        pins = [line for line in lines if re.match(r"[a-z0-9]", line)]
        assert pins, lock.name
        assert all("==" in pin and pin.endswith("\\") for pin in pins), lock.name
        assert not [line for line in lines if re.match(r"--|(torch|triton|nvidia-.*|cuda-.*)==", line)], lock.name


def test_make_help_names_every_command():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "serve", "test", "check", "bench", "lock"):
        assert re.search(rf"^  make {target} +\S", listed, re.MULTILINE), target
