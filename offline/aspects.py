"""What an average over queries hides: slices, queries written otherwise, narrower vectors, and the queries that changed most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offline.bootstrap import Values, difference_interval, mean_interval, ratio_interval
from offline.config import EvaluateConfig
from offline.encoded import load_vectors
from offline.exported import MODEL
from offline.findings import Robustness, Slice, Width
from offline.judged import Judged
from offline.metrics import ndcg
from offline.progress import say
from offline.ranking import Floats, exact_top_k
from offline.slices import Cut
from offline.systems import Workbench
from offline.variants import KINDS, Kind, make_variant

_DEPTH = 10
_SAME = 1e-9


def measure_slices(cuts: Sequence[Cut], teacher: Values, served: Values, config: EvaluateConfig) -> tuple[Slice, ...]:
    """Both systems, nDCG@10 float64[q], on each slice."""
    return tuple(
        Slice(
            by=one.by,
            name=one.name,
            queries=int(one.mask.sum()),
            teacher=float(teacher[one.mask].mean()),
            served=float(served[one.mask].mean()),
            retained=ratio_interval(served[one.mask], teacher[one.mask], config.bootstrap, config.seed),
        )
        for one in cuts
    )


def measure_robustness(bench: Workbench, judged: Judged, teacher: Values, served: Values) -> tuple[Robustness, ...]:
    """Both systems on the same queries with typos, in another case, in another order, with a word left out.

    ``teacher`` and ``served`` are nDCG@10 float64[q] of the queries as they are.
    """
    config = bench.job.recipe.evaluate
    if not config.max_varied_queries:
        return ()
    order = np.random.default_rng([config.seed, 2]).permutation(len(judged))
    places = np.sort(order[: config.max_varied_queries])
    some = judged.take(places)
    return tuple(_robustness(bench, some, kind, (teacher[places], served[places])) for kind in KINDS)


def _robustness(bench: Workbench, judged: Judged, kind: Kind, clean: tuple[Values, Values]) -> Robustness:
    config = bench.job.recipe.evaluate
    say(f"  variants: {kind}")
    texts = [make_variant(text, kind, np.random.default_rng([config.seed, place])) for place, text in enumerate(judged.texts)]
    by_teacher = exact_top_k(bench.by_torch(bench.teacher, texts), bench.documents, judged.depth(_DEPTH))[1]
    teacher = ndcg(judged, by_teacher)
    served = ndcg(judged, bench.search_page(bench.by_graph(MODEL, texts), judged))
    return Robustness(
        variant=kind,
        queries=len(judged),
        changed=sum(text != before for text, before in zip(texts, judged.texts, strict=True)),
        teacher=float(teacher.mean()),
        served=float(served.mean()),
        teacher_lost=difference_interval(clean[0], teacher, config.bootstrap, config.seed),
        served_lost=difference_interval(clean[1], served, config.bootstrap, config.seed),
        retained=ratio_interval(served, teacher, config.bootstrap, config.seed),
    )


def measure_widths(bench: Workbench, judged: Judged) -> tuple[Width, ...]:
    """Teacher and served graph with vectors cut to each width that they were trained for (arXiv 2205.13147)."""
    widths = [width for width in getattr(bench.job.recipe.train, "matryoshka", ()) if width < bench.documents.shape[1]]
    if not widths:
        return ()
    teacher, student = bench.by_torch(bench.teacher, judged.texts), bench.by_graph(MODEL, judged.texts)
    return tuple(_width(bench, judged, width, (teacher, student)) for width in sorted(widths))


def _width(bench: Workbench, judged: Judged, width: int, vectors: tuple[Floats, Floats]) -> Width:
    config = bench.job.recipe.evaluate
    whole = [ndcg(judged, exact_top_k(found, bench.documents, judged.depth(_DEPTH))[1]) for found in vectors]
    documents = truncate(load_vectors(bench.job.inputs["encode"]), width)
    short = [ndcg(judged, exact_top_k(truncate(found, width), documents, judged.depth(_DEPTH))[1]) for found in vectors]
    teacher, student = (mean_interval(values, config.bootstrap, config.seed) for values in short)
    lost = [difference_interval(before, after, config.bootstrap, config.seed) for before, after in zip(whole, short, strict=True)]
    return Width(dim=width, teacher=teacher, student=student, teacher_lost=lost[0], student_lost=lost[1])


def truncate(vectors: Floats, width: int) -> Floats:
    """The first ``width`` numbers of each vector float32[n, dim], of length 1 again."""
    short = vectors[:, :width]
    lengths = np.maximum(np.linalg.norm(short, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray(short / lengths, np.float32)


def swings(teacher: Values, served: Values, most: int) -> tuple[list[int], list[int]]:
    """Places of the queries, nDCG@10 float64[q], that lost most and that gained most; ties in the order of the queries."""
    change = served - teacher
    order = np.argsort(change, kind="stable")
    lost = [int(place) for place in order if change[place] < -_SAME][:most]
    best_first = np.argsort(-change, kind="stable")
    return lost, [int(place) for place in best_first if change[place] > _SAME][:most]
