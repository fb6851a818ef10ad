"""deploy/kubernetes: what each overlay comes to is valid, keeps the service's promises, and fits its defaults."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_kinds import KINDS
from kustomized import OVERLAYS, ROOT, documents, identity, rendered
from make_snapshot import make_snapshot
from pydantic import ValidationError
from typer.testing import CliRunner

from deploy.kubernetes.prometheus_rule import RULES, WRITTEN, render
from service.settings import PREFIX, Settings, described_settings
from snapshot.__main__ import app
from snapshot.paths import is_id
from snapshot.registry import Registry
from snapshot.remote import push

BUILT = {overlay.name: {identity(one): one for one in rendered(overlay)} for overlay in OVERLAYS}
RESOURCES = [(name, one) for name, built in BUILT.items() for one in built.values()]
PODS = [built["Deployment", "scalingnote"]["spec"]["template"]["spec"] for built in BUILT.values()]
EVERY_POD = [one["spec"]["template"]["spec"] for _, one in RESOURCES if one["kind"] == "Deployment"]
ADAPTER = documents(ROOT / "components/autoscaling/adapter-rules.yaml")[0]["rules"]
_VERSIONS = ("1.30", kubernetes_validate.latest_version())
"""preStop.sleep is known to Kubernetes since the first."""


def validate(resource: dict[str, Any]) -> None:
    """Raises where a field is misspelt, missing or of another type."""
    if resource["kind"] in KINDS:
        KINDS[resource["kind"]].model_validate(resource)
        return
    for version in _VERSIONS:
        kubernetes_validate.validate(resource, version, strict=True)


def settings_of(overlay: str) -> Settings:
    """As the service of an overlay reads them."""
    built = BUILT[overlay]
    given = dict(built["ConfigMap", "scalingnote"]["data"])
    [container] = built["Deployment", "scalingnote"]["spec"]["template"]["spec"]["containers"]
    given |= {one["name"]: one["value"] for one in container["env"] if "value" in one}
    assert set(given) | {one["name"] for one in container["env"]} <= {one.variable for one in described_settings()}
    return Settings(**{name.removeprefix(PREFIX).lower(): value for name, value in given.items()})


def labels_of(built: dict[tuple[str, str], Any]) -> dict[str, str]:
    return built["Deployment", "scalingnote"]["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize(("overlay", "resource"), RESOURCES, ids=[f"{name}-{identity(one)}" for name, one in RESOURCES])
def test_every_resource_fits_its_schema(overlay: str, resource: dict[str, Any]) -> None:
    validate(resource)
    assert resource["metadata"]["namespace"] == "scalingnote"


@pytest.mark.parametrize(
    "kind", ["Deployment", "PodDisruptionBudget", "HorizontalPodAutoscaler", "ServiceMonitor", "PrometheusRule"]
)
def test_a_misspelt_field_is_found(kind: str) -> None:
    spoilt = copy.deepcopy(BUILT["production"][kind, "scalingnote"])
    spoilt["spec"]["mispelt"] = 1
    with pytest.raises((kubernetes_validate.ValidationError, ValidationError)):
        validate(spoilt)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_kustomize_makes_the_same_of_an_overlay(overlay: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: overlays are checked as the tests read them")
    done = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=False)
    if "unknown field" in done.stderr or done.returncode:
        version = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True, check=False).stdout
        assert "Kustomize Version: v5" not in version, done.stderr
        pytest.skip("kubectl's kustomize is older than components are")
    assert {identity(one): one for one in yaml.safe_load_all(done.stdout)} == BUILT[overlay.name]


@pytest.mark.parametrize("pod", EVERY_POD)
def test_containers_may_nothing_that_they_need_not(pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("pod", PODS, ids=BUILT)
def test_a_pod_asks_for_the_disk_that_its_volumes_may_take(pod: dict[str, Any]) -> None:
    volumes = {one["name"]: gibibytes(one["emptyDir"]["sizeLimit"]) for one in pod["volumes"] if "emptyDir" in one}
    [container] = pod["containers"]
    asked, limit = (gibibytes(container["resources"][name]["ephemeral-storage"]) for name in ("requests", "limits"))
    assert asked >= volumes["registry"]
    assert limit > sum(volumes.values())


def gibibytes(quantity: str) -> float:
    size, unit = int(quantity[:-2]), quantity[-2:]
    return size / {"Gi": 1, "Mi": 1024}[unit]


def test_the_user_is_that_of_the_image() -> None:
    image = (ROOT.parents[1] / "Dockerfile").read_text()
    assert {pod["securityContext"]["runAsUser"] for pod in PODS} == {
        int(user) for user in re.findall(r"^USER (\d+)$", image, re.MULTILINE)
    }


@pytest.mark.parametrize("overlay", BUILT)
def test_settings_exist_and_fit_the_pod(overlay: str) -> None:
    settings = settings_of(overlay)
    pod = BUILT[overlay]["Deployment", "scalingnote"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert {port["containerPort"] for port in container["ports"]} == {settings.port}
    assert settings.host == "0.0.0.0"
    assert str(settings.registry) in {mount["mountPath"] for mount in container["volumeMounts"]}
    if settings.admin_tokens_file is not None:
        assert str(settings.admin_tokens_file.parent) in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert (settings.remote_registry is None) == ("initContainers" in pod)


@pytest.mark.parametrize("overlay", BUILT)
def test_a_pod_has_time_to_answer_what_is_in_flight(overlay: str) -> None:
    settings = settings_of(overlay)
    pod = BUILT[overlay]["Deployment", "scalingnote"]["spec"]["template"]["spec"]
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    for drain_seconds in (settings.drain_seconds, Settings(registry=Path("registry")).drain_seconds):
        assert pod["terminationGracePeriodSeconds"] >= before + drain_seconds + 10
    assert settings.drain_seconds > settings.max_timeout_ms / 1e3
    probe = pod["containers"][0]["readinessProbe"]
    assert before > probe["periodSeconds"] * probe["failureThreshold"], "the balancers of others ask as often as this"


@pytest.mark.parametrize("pod", PODS, ids=BUILT)
def test_probes_ask_what_the_service_answers(pod: dict[str, Any]) -> None:
    routes = json.loads((ROOT.parents[1] / "docs/openapi.json").read_text())["paths"]
    [container] = pod["containers"]
    asked = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: get["path"] for name, get in asked.items()} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    assert {get["path"] for get in asked.values()} <= set(routes)
    assert {get["port"] for get in asked.values()} <= {port["name"] for port in container["ports"]}


@pytest.mark.parametrize("built", BUILT.values(), ids=BUILT)
def test_selectors_select_the_pods_and_ports_are_theirs(built: dict[tuple[str, str], Any]) -> None:
    labels = labels_of(built).items()
    pod = built["Deployment", "scalingnote"]["spec"]["template"]["spec"]
    ports = {port["name"] for port in pod["containers"][0]["ports"]}
    services = [one for (kind, name), one in built.items() if kind == "Service" and name != "scalingnote-balancer"]
    selected = [one["spec"]["selector"] for one in services] + [
        built["PodDisruptionBudget", "scalingnote"]["spec"]["selector"]["matchLabels"],
        built["NetworkPolicy", "scalingnote"]["spec"]["podSelector"]["matchLabels"],
        built["Deployment", "scalingnote"]["spec"]["selector"]["matchLabels"],
    ]
    assert all(one.items() <= labels for one in selected)
    assert {port["targetPort"] for one in services for port in one["spec"]["ports"]} <= ports
    ingress = built["NetworkPolicy", "scalingnote"]["spec"]["ingress"]
    assert {port["port"] for rule in ingress for port in rule["ports"]} <= ports


@pytest.mark.parametrize("built", BUILT.values(), ids=BUILT)
def test_a_rolling_update_takes_no_replica_away(built: dict[tuple[str, str], Any]) -> None:
    spec = built["Deployment", "scalingnote"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert built["PodDisruptionBudget", "scalingnote"]["spec"]["maxUnavailable"] == 1
    assert spec.get("replicas", 3) >= 2


def test_what_the_init_container_pulls_is_what_the_service_serves(tmp_path: Path) -> None:
    [init] = BUILT["pulled"]["Deployment", "scalingnote"]["spec"]["template"]["spec"]["initContainers"]
    values = {one["name"]: one["value"] for one in init["env"]}
    assert is_id(values["SNAPSHOT_ID"])
    published = Registry(tmp_path / "published")
    snapshot_id = published.publish(make_snapshot(tmp_path / "made", rows=20).root).id
    push(published, str(tmp_path / "store"), [snapshot_id])
    ours = {"$(REGISTRY_URL)": str(tmp_path / "store"), "$(SNAPSHOT_ID)": snapshot_id, "/registry": str(tmp_path / "registry")}
    program, arguments = init["command"][:3], init["command"][3:]
    assert program == ["python", "-m", "snapshot"]
    done = CliRunner().invoke(app, [ours.get(word, word) for word in arguments])
    assert done.exit_code == 0, done.output
    assert Registry(tmp_path / "registry").current() == snapshot_id


def test_the_page_names_every_overlay_and_no_other() -> None:
    page = (ROOT.parents[1] / "docs/deploy.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == {overlay.name for overlay in OVERLAYS}
    assert set(re.findall(r"apply -k (\S+)", page)) <= {str(overlay.relative_to(ROOT.parents[1])) for overlay in OVERLAYS}


def test_the_balancer_finds_every_replica_there_can_be_and_may_call_them() -> None:
    built = BUILT["balanced"]
    config = built["ConfigMap", "scalingnote-balancer"]["data"]
    template = re.search(r"server-template replica (\d+) (\S+):(\d+)", config["kubernetes.cfg"])
    assert template
    headless = built["Service", "scalingnote-replicas"]
    assert template[2] == f"{headless['metadata']['name']}.{headless['metadata']['namespace']}.svc.cluster.local"
    assert [port["port"] for port in headless["spec"]["ports"]] == [int(template[3])]
    assert int(template[1]) >= BUILT["production"]["HorizontalPodAutoscaler", "scalingnote"]["spec"]["maxReplicas"]
    pod = built["Deployment", "scalingnote-balancer"]["spec"]["template"]
    [allowed, _] = built["NetworkPolicy", "scalingnote"]["spec"]["ingress"]
    assert allowed["from"][0]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert built["Service", "scalingnote-balancer"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_who_may_call_the_balancer_is_who_may_call_the_replicas() -> None:
    built = BUILT["balanced"]
    policy, replicas = (built["NetworkPolicy", name]["spec"] for name in ("scalingnote-balancer", "scalingnote"))
    pod = built["Deployment", "scalingnote-balancer"]["spec"]["template"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    callers, _ = replicas["ingress"]
    assert policy["ingress"] == [callers]
    names, service = policy["egress"]
    assert names == replicas["egress"][0]
    assert service["to"][0]["podSelector"]["matchLabels"].items() <= labels_of(built).items()
    assert service["ports"] == [{"port": settings_of("balanced").port}]


def test_the_balancer_is_replaced_without_losing_requests() -> None:
    pod = BUILT["balanced"]["Deployment", "scalingnote-balancer"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    config = BUILT["balanced"]["ConfigMap", "scalingnote-balancer"]["data"]["haproxy.cfg"]
    longest = re.search(r"timeout server (\d+)s", config)
    assert longest
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= before + int(longest[1])
    assert f"monitor-uri {container['readinessProbe']['httpGet']['path']}" in config
    assert [port["containerPort"] for port in container["ports"]] == [int(re.findall(r"BALANCER_PORT-(\d+)", config)[0])]


def test_the_rules_are_those_of_prometheus() -> None:
    assert WRITTEN.read_text(encoding="utf-8") == render(), "run: make manifests"
    groups = BUILT["production"]["PrometheusRule", "scalingnote"]["spec"]["groups"]
    assert groups == [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]


def test_the_monitor_finds_every_pod_and_names_the_job_that_the_rules_know() -> None:
    built = BUILT["production"]
    spec = built["ServiceMonitor", "scalingnote"]["spec"]
    wanted = spec["selector"]["matchLabels"].items()
    found = [one for (kind, _), one in built.items() if kind == "Service" and wanted <= one["metadata"]["labels"].items()]
    [service] = found
    assert service["spec"]["publishNotReadyAddresses"] is True
    jobs = set(re.findall(r'\bup\{job="(\w+)"\}', WRITTEN.read_text()))
    assert {service["metadata"]["labels"][spec["jobLabel"]]} == jobs
    [endpoint] = spec["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    [compose] = yaml.safe_load((RULES[0].parents[1] / "prometheus.yml").read_text())["scrape_configs"]
    assert compose["job_name"] in jobs


def test_the_autoscaler_asks_for_metrics_that_the_adapter_makes() -> None:
    built = BUILT["production"]
    spec = built["HorizontalPodAutoscaler", "scalingnote"]["spec"]
    asked = {one[one["type"].lower()]["metric"]["name"] for one in spec["metrics"]}
    assert asked == {rule["name"]["as"] for rule in ADAPTER}
    target = spec["scaleTargetRef"]
    assert (target["kind"], target["name"]) in built
    assert "replicas" not in built[target["kind"], target["name"]]["spec"]
    described = [one["object"]["describedObject"] for one in spec["metrics"] if "object" in one]
    assert all((one["kind"], one["name"]) in built for one in described)
    overridden = {key for rule in ADAPTER for key in rule["resources"]["overrides"]}
    assert overridden == {"namespace", "pod", "service"}, "labels that the operator gives to what a ServiceMonitor finds"
