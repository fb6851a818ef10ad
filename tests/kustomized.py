"""What an overlay of deploy/kubernetes comes to, by the few fields of kustomize that ours use; others are refused.

CI has no kustomize. Where ``kubectl`` has one, a test compares what both make of each overlay.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1] / "deploy/kubernetes"
OVERLAYS = sorted(path.parent for path in (ROOT / "overlays").glob("*/kustomization.yaml"))
_KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "images", "replicas", "configMapGenerator"}
_KEYS = ("mountPath", "name")
"""By which items of lists are the same."""


def documents(path: Path) -> list[dict[str, Any]]:
    """Those of a YAML file."""
    return [found for found in yaml.safe_load_all(path.read_text(encoding="utf-8")) if found is not None]


def rendered(folder: Path) -> list[dict[str, Any]]:
    """Every resource of the kustomization in ``folder``."""
    return _built(folder, [])


def _built(folder: Path, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    [said] = documents(folder / "kustomization.yaml")
    assert set(said) <= _KNOWN, f"{folder}: {set(said) - _KNOWN} is not understood here"
    found = [*given]
    for name in said.get("resources", []):
        found += rendered(folder / name) if (folder / name).is_dir() else documents(folder / name)
    found += [_generated(one, folder) for one in said.get("configMapGenerator", [])]
    for name in said.get("components", []):
        found = _built(folder / name, found)
    for patch in said.get("patches", []):
        found = list(_patched(found, patch, folder))
    return [_adjusted(one, said) for one in found]


def _generated(said: dict[str, Any], folder: Path) -> dict[str, Any]:
    assert said["options"] == {"disableNameSuffixHash": True}, "names with a hash are not understood here"
    data = {name: (folder / name).read_text(encoding="utf-8") for name in said["files"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": said["name"]}, "data": data}


def _patched(resources: list[dict[str, Any]], patch: dict[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    if "path" in patch:
        [change] = documents(folder / patch["path"])
        for one in resources:
            yield merged(one, change) if identity(one) == identity(change) else one
        return
    for one in resources:
        is_meant = one["kind"] == patch["target"]["kind"] and one["metadata"]["name"] == patch["target"]["name"]
        yield _without(one, yaml.safe_load(patch["patch"])) if is_meant else one


def identity(resource: dict[str, Any]) -> tuple[str, str]:
    return resource["kind"], resource["metadata"]["name"]


def merged(old: Any, new: Any) -> Any:
    """A strategic merge: null removes, lists of named items are merged by name, whatever else is replaced."""
    if isinstance(old, dict) and isinstance(new, dict):
        both = {key: merged(old[key], value) if key in old else value for key, value in new.items()}
        return {key: value for key, value in {**old, **both}.items() if value is not None}
    key = next((key for key in _KEYS if _all_have(old, key) and _all_have(new, key)), None)
    if key is None:
        return new
    changes = {item[key]: item for item in new}
    kept = [merged(item, changes.pop(item[key])) if item[key] in changes else item for item in old]
    return [*changes.values(), *kept]


def _all_have(items: Any, key: str) -> bool:
    return isinstance(items, list) and all(isinstance(item, dict) and key in item for item in items)


def _without(resource: dict[str, Any], operations: list[dict[str, str]]) -> dict[str, Any]:
    assert [(one["op"], one["path"]) for one in operations] == [("remove", "/spec/replicas")]
    return {**resource, "spec": {key: value for key, value in resource["spec"].items() if key != "replicas"}}


def _adjusted(resource: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """With the namespace, the images and the numbers of replicas of a kustomization."""
    adjusted = resource
    if "namespace" in said:
        adjusted = merged(adjusted, {"metadata": {"namespace": said["namespace"]}})
    for count in said.get("replicas", []):
        if identity(adjusted) == ("Deployment", count["name"]):
            adjusted = merged(adjusted, {"spec": {"replicas": count["count"]}})
    for image in said.get("images", []):
        adjusted = _with_image(adjusted, image["name"], f"{image['newName']}:{image['newTag']}")
    return adjusted


def _with_image(node: Any, name: str, image: str) -> Any:
    if isinstance(node, list):
        return [_with_image(item, name, image) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: image if (key, value) == ("image", name) else _with_image(value, name, image) for key, value in node.items()}
