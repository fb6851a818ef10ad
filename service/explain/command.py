"""``python -m service explain``: opens a snapshot as the service would, and looks at one query."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from service.ask import Asker, read_key
from service.comparison import effort_row
from service.cores import available_cores, plan_threads
from service.deadline import Deadline
from service.errors import SettingsError
from service.explain.chain import Efforts, follow, open_teacher
from service.explain.losses import losses, whole_loss
from service.explain.over_http import explain_service, show_answers
from service.explain.question import Question
from service.explain.report import Explanation, show
from service.explain.timing import time_search
from service.generation import Generation, open_generation
from service.loader import generation_options
from service.settings import Settings, load_settings, trust_of, variable
from service.stages import Search
from snapshot.errors import NothingPublishedError
from snapshot.layout import Layout
from snapshot.registry import Registry
from snapshot.verify import verify

_PATIENCE_MS = 30_000.0
"""For what is asked of a service, beyond the search's own budget."""


def explain_registry(settings: Settings, snapshot: str | None, question: Question) -> Explanation:
    """Open the snapshot that the registry wants, or another one, and look at a query.

    Raises:
        SnapshotError: there is no such snapshot, or it cannot be loaded.
        InvalidRequestError: filter or effort name what it does not have.
        DeadlineExceededError: the budget does not reach the end.
    """
    registry = Registry(settings.registry)
    wanted = snapshot or registry.current()
    if wanted is None:
        raise NothingPublishedError(f"{settings.registry}: nothing is activated; name a snapshot with --snapshot")
    threads = plan_threads(available_cores(), settings.threads, settings.encoder_threads)
    options = replace(generation_options(settings, threads), batching=False)
    layout: Layout = registry.layout(wanted)
    generation = open_generation(layout, options, _unheard, verify=partial(verify, trust=trust_of(settings)))
    with ExitStack() as opened:
        opened.callback(generation.close)
        return explain(generation, question, question.timeout_ms or settings.default_timeout_ms)


def explain(generation: Generation, question: Question, budget_ms: float) -> Explanation:
    """Look at a query on an open generation."""
    chosen = effort_row(generation, question.effort).effort
    search = Search(question.query, question.k, filter=question.filter)
    timings, result = time_search(generation, search, chosen, budget_ms)
    efforts = Efforts(chosen, result.plan.effort)
    with ExitStack() as opened:
        teacher = open_teacher(generation)
        if teacher is not None:
            opened.callback(teacher.close)
        chain = follow(generation, teacher, search, efforts)
    found = tuple(losses(chain.stands))
    rows = sorted({moved.row for loss in found for moved in (*loss.lost, *loss.won)})
    ids = dict(zip(rows, generation.documents.ids(np.array(rows, np.int64)), strict=True))
    reference = chain.stands[0].note or "nothing: no document is eligible"
    hits = tuple(hit.id for hit in result.hits)
    whole = whole_loss(chain.stands)
    k = len(chain.stands[0].rows)
    return Explanation(question.query, generation.id, k, efforts, timings, reference, found, whole, chain, ids, hits)


def run(
    registry: str | None, url: str | None, snapshot: str | None, question: Question, as_json: bool, key_file: Path | None = None
) -> int:
    """Explain and print; 0. Raises what ``explain_registry`` and ``explain_service`` do."""
    if url is not None:
        deadline = Deadline.after(_PATIENCE_MS + 2 * (question.timeout_ms or 0.0), time.monotonic(), time.monotonic)
        show_answers(explain_service(Asker(url, deadline, read_key(key_file)), question), as_json)
    elif registry is not None:
        show(explain_registry(load_settings({"registry": registry}), snapshot, question), as_json)
    else:
        raise SettingsError(f"name what to look at: --registry (or {variable('registry')}), or --url of a running service")
    return 0


def _unheard(step: str) -> None:
    """Nobody follows the steps."""
