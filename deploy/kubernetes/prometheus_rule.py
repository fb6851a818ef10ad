"""Writes the PrometheusRule of deploy/kubernetes from deploy/prometheus/rules: ``make manifests``. Nobody edits it by hand."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

_DEPLOY = Path(__file__).parents[1]
RULES = sorted((_DEPLOY / "prometheus/rules").glob("*.yml"))
WRITTEN = Path(__file__).parent / "components/monitoring/prometheusrule.yaml"
_WIDTH = 120
_NOTE = "# Made from deploy/prometheus/rules by: make manifests\n"


def render() -> str:
    """Every group of every file, as one PrometheusRule."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "scalingnote", "labels": {"app.kubernetes.io/name": "scalingnote"}},
        "spec": {"groups": groups},
    }
    without_anchors = json.loads(json.dumps(rule))  # which the operator's API does not know
    return _NOTE + str(yaml.safe_dump(without_anchors, sort_keys=False, width=_WIDTH))


if __name__ == "__main__":
    WRITTEN.write_text(render(), encoding="utf-8")
