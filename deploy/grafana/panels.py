"""Panels, and how they are placed: what the dashboards are made of, typed after Grafana's own schema by its SDK."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models.common import BigValueGraphMode, LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    GridPos,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef("prometheus", "prometheus")
WIDTH = 24
TAG = "scalingnote"
WORK = 'route=~"/search|/search/batch|/embed|/v1/embeddings"'
HERE = 'instance=~"$instance"'


class Query(NamedTuple):
    """What a panel asks for, and the name of each series; ``exemplar``: with the traces that its buckets have."""

    expr: str
    legend: str = ""
    exemplar: bool = False


class Limits(NamedTuple):
    """From where on a number is yellow, and red; falling where less is worse."""

    warning: float
    bad: float

    def thresholds(self) -> dashboard.ThresholdsConfig:
        falling = self.warning > self.bad
        colors = ("red", "orange", "green") if falling else ("green", "orange", "red")
        edges = (None, *sorted(self))
        steps = [Threshold(edge, color) for edge, color in zip(edges, colors, strict=True)]
        return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


class Tile(NamedTuple):
    """A panel, and the room that it takes on a grid that is 24 wide."""

    panel: stat.Panel | table.Panel | timeseries.Panel
    width: int
    height: int


def rate(metric: str, *by: str, where: str = "") -> str:
    """A sum of rates over the chosen replicas."""
    grouped = f" by ({', '.join(by)})" if by else ""
    matchers = f"{HERE}, {where}" if where else HERE
    return f"sum{grouped} (rate({metric}{{{matchers}}}[$__rate_interval]))"


def quantile(q: float, metric: str, *by: str, where: str = "") -> str:
    return f"histogram_quantile({q:g}, {rate(f'{metric}_bucket', 'le', *by, where=where)})"


def _target(query: Query, ref: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().datasource(SOURCE).expr(query.expr).ref_id(ref)
    if query.exemplar:
        target.exemplar(True)
    return target.legend_format(query.legend) if query.legend else target


def _targets(queries: Sequence[Query]) -> list[prometheus.Dataquery]:
    return [_target(query, chr(ord("A") + number)) for number, query in enumerate(queries)]


def number(title: str, why: str, unit: str, query: Query, limits: Limits | None = None, width: int = 4) -> Tile:
    """The last value of one query, large."""
    panel = stat.Panel().title(title).description(why).datasource(SOURCE).unit(unit).graph_mode(BigValueGraphMode.AREA)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    if limits is not None:
        panel.thresholds(limits.thresholds())
    for target in _targets([query]):
        panel.with_target(target)
    return Tile(panel, width, 4)


def graph(title: str, why: str, unit: str, *queries: Query, width: int = 8) -> Tile:
    """Lines over time."""
    panel = timeseries.Panel().title(title).description(why).datasource(SOURCE).unit(unit).min(0).fill_opacity(8)
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
    panel.legend(legend)
    for target in _targets(queries):
        panel.with_target(target)
    return Tile(panel, width, 8)


def listing(title: str, why: str, query: Query, width: int = 12) -> Tile:
    """The labels of every series that there is now."""
    target = _target(query, "A").instant().format(PromQueryFormat.TABLE)
    return Tile(table.Panel().title(title).description(why).datasource(SOURCE).with_target(target), width, 8)


Section = tuple[str, Sequence[Tile]]
"""A heading, and what is below it."""

MARKS = (
    ("another snapshot serves", "purple", f"changes(scalingnote_snapshot_loaded_timestamp_seconds{{{HERE}}}[1m]) > 0"),
    ("a snapshot was refused", "red", f'increase(scalingnote_swaps_total{{{HERE}, outcome="failed"}}[1m]) > 0'),
    ("a service went back by itself", "orange", f"increase(scalingnote_automatic_rollbacks_total{{{HERE}}}[1m]) > 0"),
)


def board_of(uid: str, title: str, description: str, since: str, sections: Sequence[Section]) -> Dashboard:
    """A dashboard of ``since`` until now, with a choice of replicas and a mark for each change of snapshot."""
    board = dashboard.Dashboard(title).uid(uid).description(description).tags([TAG]).readonly().timezone("browser")
    board.refresh("10s").time(since, "now").tooltip(DashboardCursorSync.CROSSHAIR)
    board.link(
        dashboard.DashboardLink("ScalingNote").type(DashboardLinkType.DASHBOARDS).tags([TAG]).include_vars(True).keep_time(True)
    )
    replica = (
        dashboard.QueryVariable("instance").label("Replica").datasource(SOURCE).query("label_values(scalingnote_ready, instance)")
    )
    board.with_variable(replica.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).multi(True).include_all(True).all_value(".*"))
    for name, color, expr in MARKS:
        board.annotation(dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(color).expr(expr))
    ids, top = count(1), 0
    for heading, tiles in sections:
        board.with_row(dashboard.Row(heading).id(next(ids)).grid_pos(GridPos(h=1, w=WIDTH, x=0, y=top)))
        top = _place(board, tiles, ids, top + 1)
    return board.build()


def _place(board: dashboard.Dashboard, tiles: Sequence[Tile], ids: count[int], top: int) -> int:
    """From left to right, and on a new line where there is no room; where the next section begins."""
    left = height = 0
    for tile in tiles:
        if left + tile.width > WIDTH:
            left, top = 0, top + height
        board.with_panel(tile.panel.id(next(ids)).grid_pos(GridPos(h=tile.height, w=tile.width, x=left, y=top)))
        left, height = left + tile.width, tile.height
    return top + height
