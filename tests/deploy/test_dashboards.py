"""The dashboards in the repository are what their source makes, and Grafana's schema as the SDK has it can read them."""

from __future__ import annotations

import json
import re

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.dashboards import FOLDER, dashboards, render

BOARDS = dashboards()


def test_the_folder_holds_what_the_source_makes_and_nothing_else() -> None:
    kept = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert kept == {name: render(board) for name, board in BOARDS.items()}, "run: make dashboards"


@pytest.mark.parametrize("name", BOARDS)
def test_nothing_is_lost_when_the_schema_reads_it_back(name: str) -> None:
    written = json.loads(render(BOARDS[name]))
    assert json.loads(json.dumps(Dashboard.from_json(written), cls=JSONEncoder)) == written


@pytest.mark.parametrize(
    "metric",
    ["scalingnote_stage_budget_left_seconds_bucket", "scalingnote_sent_elsewhere_total", "scalingnote_log_lines_lost_total"],
)
def test_who_is_on_call_sees_time_left_what_goes_elsewhere_and_what_the_log_lacks(metric: str) -> None:
    panels = json.loads(render(BOARDS["service.json"]))["panels"]
    assert any(metric in target["expr"] for panel in panels for target in panel.get("targets", []))


def test_latency_is_shown_with_the_traces_that_its_buckets_have() -> None:
    panels = [panel for board in BOARDS.values() for panel in json.loads(render(board))["panels"]]
    asked = [target for panel in panels if panel["type"] == "timeseries" for target in panel["targets"]]
    latency = [one for one in asked if re.search(r"0\.99, .*scalingnote_(request|stage)_seconds_bucket", one["expr"])]
    assert len(latency) >= 3
    assert [one for one in asked if one.get("exemplar")] == latency


@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_says_what_it_is_for(name: str) -> None:
    panels = [panel for panel in json.loads(render(BOARDS[name]))["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in panels if not panel.get("description")] == []
