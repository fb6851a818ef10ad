"""What an evaluation found, typed: the content of ``report.json``, which the page and the plots are made from."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from offline.bootstrap import Interval
from offline.exported import ExportReport
from snapshot.manifest import Index, Retention


class _Finding(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quality(_Finding):
    """One retrieval system on the judged queries: each metric's mean with its 95% bootstrap interval."""

    name: str
    title: str
    metrics: dict[str, Interval]
    judged_only: Interval | None = None
    """nDCG@10 of the judged documents alone, ordered by this system; None where it is the same as another row's."""


class Loss(_Finding):
    """What one step between the teacher and what is served costs: nDCG@10 before minus after, paired by query."""

    step: Literal["distillation", "refinement", "export", "quantisation", "approximate search"]
    before: str
    after: str
    difference: Interval


class Contrast(_Finding):
    """nDCG@10 of the teacher minus that of a baseline, paired by query."""

    baseline: str
    difference: Interval
    unanswered: int = 0
    """Queries that the baseline finds no document at all for."""


class Slice(_Finding):
    """Some of the queries: mean nDCG@10 of the teacher and of what is served, and what share of it is kept."""

    by: str
    name: str
    queries: int
    teacher: float
    served: float
    retained: Interval | None
    """None where the teacher finds nothing."""


class Robustness(_Finding):
    """The same queries written otherwise: nDCG@10, and what the change costs, clean minus changed, paired by query."""

    variant: str
    """``typo``, ``case``, ``order`` or ``drop``; see ``offline.variants``."""
    queries: int
    changed: int
    """Queries that have such a variant; the others stay as they are."""
    teacher: float
    served: float
    teacher_lost: Interval
    served_lost: Interval
    retained: Interval | None
    """Served over teacher, on the changed queries."""


class Width(_Finding):
    """Vectors cut to their first ``dim`` numbers, exact search: nDCG@10, and what cutting costs, paired by query."""

    dim: int
    teacher: Interval
    student: Interval
    teacher_lost: Interval
    student_lost: Interval


class DevPoint(_Finding):
    """nDCG@10 on held-out queries during stage 1."""

    step: int
    epoch: float
    ndcg: float


class Goal(_Finding):
    """A figure and the least that it should be, or the most."""

    name: str
    figure: float
    bound: float
    at_most: bool = False
    above: bool = False
    why: str | None = None
    """Why the figure proves nothing, whatever it is; the goal is short then."""

    @property
    def is_met(self) -> bool:
        if self.why is not None:
            return False
        if self.at_most:
            return self.figure <= self.bound
        return self.figure > self.bound if self.above else self.figure >= self.bound

    def describe(self) -> str:
        """The line that is printed."""
        because = f" ({self.why})" if self.why is not None else ""
        return f"GOAL {self.name} {self.figure:.4f} {self.bound:g} {'ok' if self.is_met else 'short'}{because}"


class Latency(_Finding):
    """One query at a time through a query tower, on one thread of the builder's machine.

    Attributes:
        p50_ms: tokenization included, as ``p99_ms``.
        encode_p50_ms: without tokenization: what the service's stage ``encode`` is; None where a tower cannot do it apart.
    """

    tower: str
    p50_ms: float
    p99_ms: float
    encode_p50_ms: float | None
    queries: int


class Cut(_Finding):
    """Texts that are longer than their tower reads, of a sample of all, and tokens that say nothing."""

    texts: Literal["documents", "queries"]
    max_tokens: int
    sample: int
    cut: int
    tokens: int = 0
    """Of the sample, without those that the tokenizer adds."""
    unknown: int = 0
    """Of ``tokens`` those that stand for whatever the tokenizer does not know."""

    @property
    def share(self) -> float:
        return self.cut / self.sample if self.sample else 0.0

    def describe(self) -> str:
        """One sentence, with the setting that would change it."""
        setting = f"text.{'document' if self.texts == 'documents' else 'query'}.max_tokens"
        return (
            f"{self.share:.1%} of {self.sample:,} {self.texts} are longer than the {self.max_tokens} tokens that are read "
            f"of each ({setting})"
        )

    @property
    def unknown_share(self) -> float:
        return self.unknown / self.tokens if self.tokens else 0.0

    def describe_unknown(self) -> str:
        """One sentence, with the setting that would change it."""
        return (
            f"{self.unknown_share:.1%} of the tokens of {self.sample:,} {self.texts} are unknown to the backbone's tokenizer, "
            "and what they say is lost: take a backbone that knows their script (train.backbone)"
        )


WORTH_SAYING = 0.01
"""Share of texts that are cut, or of tokens that are unknown, from which on it is told."""


class Answer(_Finding):
    """A document that came back; ``relevant`` is None where there are no judgements."""

    id: str
    title: str
    relevant: bool | None


class Example(_Finding):
    """A query with the best answers of the teacher and of what is served."""

    query: str
    teacher: tuple[Answer, ...]
    served: tuple[Answer, ...]


class Swing(_Finding):
    """A query that the service answers much worse or better than the teacher; nDCG@10 of both."""

    example: Example
    teacher: float
    served: float


class Proof(_Finding):
    """What was measured on judged queries."""

    split: str
    queries: int
    skipped: int
    """Queries of the split without a relevant document."""
    with_own: int = 0
    """Queries whose id a document has too, which is left out of their answers."""
    relevance: int
    """Scores from this one on count as relevant for recall and MRR."""
    bootstrap: int
    systems: tuple[Quality, ...]
    losses: tuple[Loss, ...]
    contrasts: tuple[Contrast, ...]
    slices: tuple[Slice, ...] = ()
    robustness: tuple[Robustness, ...] = ()
    widths: tuple[Width, ...] = ()
    """For each of ``train.matryoshka``."""
    lost: tuple[Swing, ...] = ()
    gained: tuple[Swing, ...] = ()


class Findings(_Finding):
    """Everything in the report."""

    recipe: str
    backbone: str
    documents: int
    export: ExportReport
    index: Index
    latencies: tuple[Latency, ...]
    examples: tuple[Example, ...]
    proof: Proof | None
    """None where the data has no judged queries."""
    retention: Retention | None
    """None where there is no proof, or the teacher finds nothing at all."""
    dev_curve: tuple[DevPoint, ...] = ()
    dev_queries: str | None = None
    """How many queries of which split the curve is of, as ``57 held-out``."""
    cuts: tuple[Cut, ...] = ()
    goals: tuple[Goal, ...] = ()
    goals_left_out: str | None = None
    """Why the recipe's own goals are not among them."""
