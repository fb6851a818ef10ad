"""Writes the dashboards of deploy/grafana/dashboards from typed panels: ``make dashboards``. Nobody edits the JSON by hand."""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.panels import HERE, WORK, Limits, Query, Section, board_of, graph, number, quantile, rate
from deploy.grafana.snapshot_sections import QUALITY, SERVING, SWAPS

FOLDER = Path(__file__).parent / "dashboards"

BUDGET: Section = (
    "Error budget",
    [
        number(
            "Availability: budget left",
            "Of 30 days, and of what Prometheus has of them. Below 0 the objective is missed. docs/slo.md says what counts.",
            "percentunit",
            Query('1 - max(scalingnote:slo_burn:rate30d{slo="availability"})'),
            Limits(0.25, 0.0),
        ),
        number(
            "In budget: budget left",
            "The same, of answers within the request's own budget.",
            "percentunit",
            Query('1 - max(scalingnote:slo_burn:rate30d{slo="in_budget"})'),
            Limits(0.25, 0.0),
        ),
        number("Ready", "Replicas whose /readyz says yes.", "short", Query(f"sum(scalingnote_ready{{{HERE}}})")),
        number(
            "Refused",
            "Share of requests that are refused with 429; they are in no error budget.",
            "percentunit",
            Query(
                rate("scalingnote_shed_total", where='cause="overloaded"')
                + " / "
                + rate("scalingnote_requests_total", where=WORK)
            ),
            Limits(0.001, 0.01),
        ),
        number(
            "Search p99",
            "Of all searches, whatever their budget.",
            "s",
            Query(quantile(0.99, "scalingnote_request_seconds", where='route="/search"')),
        ),
        number("Requests", "Of routes that work on queries.", "reqps", Query(rate("scalingnote_requests_total", where=WORK))),
        graph(
            "How fast the budget is spent",
            "Times faster than it lasts: above 14.4 for an hour, or 6 for six hours, pages; above 1 for three days is a ticket.",
            "short",
            Query("scalingnote:slo_burn:rate5m", "{{slo}} 5 min"),
            Query("scalingnote:slo_burn:rate1h", "{{slo}} 1 h"),
            Query("scalingnote:slo_burn:rate6h", "{{slo}} 6 h"),
        ),
        graph(
            "Alerts that fire",
            "Each has a section of docs/runbook.md.",
            "short",
            Query('count by (alertname) (ALERTS{alertstate="firing"}) or vector(0)', "{{alertname}}"),
        ),
        graph(
            "Answers by code",
            "429: refused. 499: the caller left. 504: the budget was spent.",
            "reqps",
            Query(rate("scalingnote_requests_total", "code", where=WORK), "{{code}}"),
        ),
    ],
)
STAGES: Section = (
    "Latency and where it goes",
    [
        graph(
            "Search latency",
            "Against the default and the longest budget. Points are requests that were traced; each has its trace_id.",
            "s",
            *(
                Query(quantile(q, "scalingnote_request_seconds", where='route="/search"'), f"p{100 * q:g}", exemplar=q == 0.99)
                for q in (0.5, 0.95, 0.99)
            ),
            Query(f"max by (budget) (scalingnote_budget_seconds{{{HERE}}})", "budget: {{budget}}"),
        ),
        graph(
            "p99 by stage",
            "queue: replicas are short. encode: long queries or few cores. search: exact, filtered or deep searches.",
            "s",
            Query(quantile(0.99, "scalingnote_stage_seconds", "stage"), "{{stage}}", exemplar=True),
        ),
        graph(
            "Time by stage",
            "Seconds of work in each second: what a request costs times how many there are.",
            "s",
            Query(rate("scalingnote_stage_seconds_sum", "stage"), "{{stage}}"),
        ),
        graph(
            "By route",
            "p99 of each.",
            "s",
            Query(quantile(0.99, "scalingnote_request_seconds", "route", where=WORK), "{{route}}", exemplar=True),
        ),
        graph(
            "Queries in one call of the tower",
            "Mean; above 1 the service batches.",
            "short",
            Query(f"{rate('scalingnote_batch_rows_sum')} / {rate('scalingnote_batch_rows_count')}", "rows"),
        ),
        graph(
            "Query cache",
            "Lookups by outcome.",
            "ops",
            Query(rate("scalingnote_query_cache_requests_total", "outcome"), "{{outcome}}"),
        ),
    ],
)
OVERLOAD: Section = (
    "Overload",
    [
        graph(
            "Given up",
            "Late, gone, refused and degraded, by cause.",
            "reqps",
            Query(rate("scalingnote_shed_total", "cause"), "refused: {{cause}}"),
            Query(rate("scalingnote_dropped_total", "cause"), "dropped: {{cause}}"),
            Query(rate("scalingnote_degraded_total", "cause"), "degraded: {{cause}}"),
            Query(rate("scalingnote_over_budget_total"), "over budget"),
        ),
        graph(
            "Dropped before a stage",
            "Where requests were when their time was up.",
            "reqps",
            Query(rate("scalingnote_dropped_total", "stage", where='cause="late"'), "{{stage}}"),
        ),
        graph(
            "Concurrency",
            "At the limit, requests are refused; waiting ones have no thread yet.",
            "short",
            Query(f"sum(scalingnote_in_flight{{{HERE}}})", "in flight"),
            Query(f"sum(scalingnote_waiting{{{HERE}}})", "waiting"),
            Query(f"sum(scalingnote_concurrency_limit{{{HERE}}})", "limit"),
            Query(f'sum(scalingnote_threads{{{HERE}, part="workers"}})', "threads"),
        ),
        graph(
            "Lanes",
            "In flight by kind of request.",
            "short",
            Query(f"sum by (lane) (scalingnote_lane_in_flight{{{HERE}}})", "{{lane}}"),
        ),
        graph(
            "Connections",
            "Open ones against the limit.",
            "short",
            Query(f"sum(scalingnote_connections{{{HERE}}})", "open"),
            Query(f"sum(scalingnote_connection_limit{{{HERE}}})", "limit"),
        ),
        graph(
            "Connections closed on clients",
            "By cause; the runbook has each.",
            "ops",
            Query(rate("scalingnote_connections_closed_total", "cause"), "{{cause}}"),
        ),
        graph(
            "Budget left after a stage",
            "What a twentieth of requests has no more of; 0 after the stage on which it is spent. reply: of the whole request.",
            "s",
            Query(quantile(0.05, "scalingnote_stage_budget_left_seconds", "stage"), "{{stage}}"),
        ),
        graph(
            "Sent elsewhere",
            "503 too_slow, on which the balancer asks another replica; in vain: no other answered either.",
            "reqps",
            Query(rate("scalingnote_sent_elsewhere_total", "instance"), "{{instance}}"),
            Query("sum(scalingnote:sent_in_vain:rate5m)", "in vain, of all replicas"),
        ),
        graph(
            "Lines that the log lacks",
            "By cause. Above 0, whoever reads the log does not keep up, or it cannot be written.",
            "ops",
            Query(rate("scalingnote_log_lines_lost_total", "cause"), "{{cause}}"),
        ),
    ],
)
SATURATION: Section = (
    "Saturation",
    [
        graph(
            "CPU",
            "Cores in use, and those that the process may use.",
            "short",
            Query(f"rate(process_cpu_seconds_total{{{HERE}}}[$__rate_interval])", "{{instance}}"),
            Query(f'scalingnote_threads{{{HERE}, part="cores"}}', "cores {{instance}}"),
        ),
        graph(
            "Memory",
            "Resident, and what control group and machine have left.",
            "bytes",
            Query(f"process_resident_memory_bytes{{{HERE}}}", "resident {{instance}}"),
            Query(f"scalingnote_memory_available_bytes{{{HERE}}}", "left {{instance}}"),
        ),
        graph(
            "Event loop",
            "p99 of how late it is, while a snapshot is being loaded and otherwise: nobody is answered in that time.",
            "s",
            Query(quantile(0.99, "scalingnote_event_loop_lag_seconds", "swap"), "swap: {{swap}}"),
        ),
        graph(
            "CPU quota used up",
            "Share of the control group's periods; above 5% costs latency. Nothing where there is no quota.",
            "percentunit",
            Query(
                f"rate(scalingnote_cgroup_cpu_throttled_periods_total{{{HERE}}}[$__rate_interval])"
                f" / rate(scalingnote_cgroup_cpu_periods_total{{{HERE}}}[$__rate_interval])",
                "{{instance}}",
            ),
        ),
        graph(
            "Waiting for the next period",
            "Seconds that threads were held back in each second, all together.",
            "s",
            Query(f"rate(scalingnote_cgroup_cpu_throttled_seconds_total{{{HERE}}}[$__rate_interval])", "{{instance}}"),
        ),
        graph(
            "Control group's memory",
            "In use with the cache of files, which is given back when it is wanted; beyond the limit the process is killed.",
            "bytes",
            Query(f"scalingnote_cgroup_memory_bytes{{{HERE}}}", "in use {{instance}}"),
            Query(f"scalingnote_cgroup_memory_limit_bytes{{{HERE}}}", "limit {{instance}}"),
        ),
    ],
)


def dashboards() -> dict[str, Dashboard]:
    """Both, by the name of their file."""
    service = board_of(
        "scalingnote-service",
        "ScalingNote: service",
        "For whoever is on call: the error budget, then stages, overload and saturation. Metrics: docs/metrics.md.",
        "now-1h",
        [BUDGET, STAGES, OVERLOAD, SATURATION],
    )
    snapshots = board_of(
        "scalingnote-snapshots",
        "ScalingNote: snapshots",
        "For operators: what is wanted, served and refused, and what answers are worth. Metrics: docs/metrics.md.",
        "now-24h",
        [SERVING, SWAPS, QUALITY],
    )
    return {"service.json": service, "snapshots.json": snapshots}


def render(board: Dashboard) -> str:
    """As Grafana reads it."""
    return json.dumps(board, cls=JSONEncoder, indent=2) + "\n"


if __name__ == "__main__":
    for name, board in dashboards().items():
        (FOLDER / name).write_text(render(board), encoding="utf-8")
