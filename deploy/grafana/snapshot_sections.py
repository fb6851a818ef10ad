"""What operators look at: the snapshots, their swaps and gates, and what answers are worth."""

from __future__ import annotations

from deploy.grafana.panels import HERE, Limits, Query, Section, graph, listing, number, rate

SERVING: Section = (
    "What serves",
    [
        number(
            "Not converged",
            "Replicas that do not serve what is wanted.",
            "short",
            Query(f"count(scalingnote_snapshot_converged{{{HERE}}} == 0) or vector(0)"),
            Limits(1, 2),
        ),
        number(
            "Age",
            "Since the oldest one that serves was made.",
            "s",
            Query(f"time() - min(scalingnote_snapshot_created_timestamp_seconds{{{HERE}}} > 0)"),
        ),
        number("Documents", "Of the smallest.", "short", Query(f"min(scalingnote_snapshot_documents{{{HERE}}})")),
        number(
            "Proof",
            "0: what serves does not reproduce its golden answers.",
            "short",
            Query(f"min(scalingnote_proof_ok{{{HERE}}})"),
            Limits(1, 0.5),
        ),
        number(
            "Golden recall",
            "Proven when it was loaded.",
            "percentunit",
            Query(f"min(scalingnote_snapshot_golden_recall{{{HERE}}})"),
        ),
        number(
            "Going back",
            "Swaps that services have undone by themselves, in the last day.",
            "short",
            Query(f"sum(increase(scalingnote_automatic_rollbacks_total{{{HERE}}}[1d]))"),
            Limits(0.5, 1),
        ),
        listing("Serving", "One line a replica.", Query(f"scalingnote_snapshot_info{{{HERE}}}")),
        listing(
            "Wanted",
            "One line a replica; other ids than those that serve are being loaded, or refused.",
            Query(f"scalingnote_snapshot_desired_info{{{HERE}}}"),
        ),
    ],
)
SWAPS: Section = (
    "Swaps and gates",
    [
        graph(
            "Attempts",
            "By outcome, an hour back.",
            "short",
            Query(f"sum by (outcome) (increase(scalingnote_swaps_total{{{HERE}}}[1h]))", "{{outcome}}"),
            Query(f"sum by (verdict) (increase(scalingnote_gate_reports_total{{{HERE}}}[1h]))", "gate: {{verdict}}"),
        ),
        graph(
            "Refused, by reason",
            "The runbook has each code.",
            "short",
            Query(f"sum by (code) (increase(scalingnote_swap_failures_total{{{HERE}}}[1h])) > 0 or vector(0)", "{{code}}"),
        ),
        graph(
            "State",
            "What is being done about snapshots.",
            "short",
            Query(f"sum by (state) (scalingnote_swap_state{{{HERE}}})", "{{state}}"),
        ),
        graph(
            "Time by step",
            "Mean of loading so far.",
            "s",
            Query(
                f"sum by (step) (scalingnote_swap_seconds_sum{{{HERE}}})"
                f" / sum by (step) (scalingnote_swap_seconds_count{{{HERE}}})",
                "{{step}}",
            ),
        ),
        graph(
            "Checks of the last gate",
            "0: failed there.",
            "short",
            Query(f"min by (check) (scalingnote_gate_check_passed{{{HERE}}})", "{{check}}"),
        ),
        graph(
            "Snapshots open, and their memory",
            "Two while the former stays open.",
            "short",
            Query(f"sum(scalingnote_generations_open{{{HERE}}})", "open"),
            Query(f"sum(scalingnote_recent_queries{{{HERE}}})", "queries kept for the next gate"),
        ),
    ],
)
QUALITY: Section = (
    "What answers are worth",
    [
        graph(
            "Recall of live searches",
            "Against exact search on a sample, with its 95% interval, and what the effort table promises.",
            "percentunit",
            Query(f"min by (bound) (scalingnote_live_recall{{{HERE}}})", "live: {{bound}}"),
            Query(
                f"{rate('scalingnote_expected_recall_sum')} / {rate('scalingnote_expected_recall_count')}",
                "expected of the effort used",
            ),
            Query('max(scalingnote_slo_target{slo="recall"})', "objective"),
        ),
        graph(
            "Student against teacher: hits in common",
            "Falls when real queries drift away from what was distilled. Of snapshots that carry the teacher's query tower.",
            "percentunit",
            Query(f"min by (bound) (scalingnote_teacher_overlap{{{HERE}}})", "overlap: {{bound}}"),
            Query('max(scalingnote_slo_target{slo="overlap"})', "objective"),
        ),
        graph(
            "Student against teacher: cosine",
            "Of the two vectors of a query.",
            "percentunit",
            Query(f"min by (bound) (scalingnote_teacher_cosine{{{HERE}}})", "{{bound}}"),
        ),
        graph(
            "Effort",
            "Searches by the effort that was used.",
            "reqps",
            Query(rate("scalingnote_searches_total", "effort"), "{{effort}}"),
            width=12,
        ),
        graph(
            "Proofs",
            "Age of the last one that passed.",
            "s",
            Query(f"time() - max by (instance) (scalingnote_proof_last_success_timestamp_seconds{{{HERE}}} > 0)", "{{instance}}"),
            width=12,
        ),
    ],
)
