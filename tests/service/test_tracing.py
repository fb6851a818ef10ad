"""Which requests are traced, and the queue behind that: bounded, counted, and nobody waits."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry import trace as api
from opentelemetry.sdk.trace import sampling

from service.record import Record
from service.settings_tracing import Sampler
from service.traceparent import Span, Traceparent, parse_traceparent
from service.tracing import Finished, TraceOptions, Tracer

WAIT_SECONDS = 30.0
SPAN = Span("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", None)
ORACLES: dict[Sampler, sampling.Sampler] = {
    "always_on": sampling.ALWAYS_ON,
    "always_off": sampling.ALWAYS_OFF,
    "traceidratio": sampling.TraceIdRatioBased(0.3),
    "parentbased_always_on": sampling.ParentBased(sampling.ALWAYS_ON),
    "parentbased_always_off": sampling.ParentBased(sampling.ALWAYS_OFF),
    "parentbased_traceidratio": sampling.ParentBased(sampling.TraceIdRatioBased(0.3)),
}


def record(stages: int = 3) -> Record:
    spent = dict.fromkeys(("queue", "tokenize", "encode", "search")[:stages], 1.0)
    return Record("POST", "/search", 200, None, "r", SPAN.trace_id, 0.004, 50.0, spent, 1, 10, None, SPAN)  # type: ignore[arg-type]


class Sender:
    """Takes batches, when it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.begun = threading.Event()
        self.batches: list[list[Finished]] = []
        self.outcome: bool | Exception = True
        self.counted: Counter[str] = Counter()

    def __call__(self, batch: Sequence[Finished]) -> bool:
        self.begun.set()
        assert self.may.wait(WAIT_SECONDS)
        self.batches.append([*batch])
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def count(self, outcome: str, number: int) -> None:
        self.counted[outcome] += number

    def tracer(self, **options: float) -> Tracer:
        tracer = Tracer(TraceOptions(**options), self, self.count)  # type: ignore[arg-type]
        tracer.start()
        return tracer


@pytest.fixture
def sender() -> Iterator[Sender]:
    made = Sender()
    yield made
    made.may.set()


def parents(trace_id: str) -> Iterator[Traceparent | None]:
    yield None
    for sampled in (False, True):
        yield Traceparent(trace_id, "00f067aa0ba902b7", sampled)


@pytest.mark.parametrize("name", ORACLES)
def test_samplers_decide_as_opentelemetrys_own(name: Sampler) -> None:
    tracer = Tracer(TraceOptions(name, 0.3), lambda _: True, lambda *_: None, random.Random(7))
    numbers = random.Random(8)
    seen = set()
    for _ in range(200):
        for caller in parents(f"{numbers.getrandbits(128):032x}"):
            before = tracer._ids.getstate()
            span = tracer.begin(caller, works=True)
            tracer._ids.setstate(before)
            trace_id = tracer._ids.getrandbits(128) if caller is None else int(caller.trace_id, 16)
            context = None
            if caller is not None:
                flags = api.TraceFlags(caller.sampled)
                remote = api.SpanContext(trace_id, int(caller.parent_id, 16), is_remote=True, trace_flags=flags)
                context = api.set_span_in_context(api.NonRecordingSpan(remote))
            expected = ORACLES[name].should_sample(context, trace_id, "any").decision is sampling.Decision.RECORD_AND_SAMPLE
            assert (span is not None) is expected
            seen.add(expected)
    assert len(seen) == (1 if name in {"always_on", "always_off"} else 2)


def test_a_span_is_of_the_callers_trace_and_has_an_id_of_its_own() -> None:
    tracer = Tracer(TraceOptions(), lambda _: True, lambda *_: None)
    caller = parse_traceparent(f"00-{SPAN.trace_id}-{SPAN.span_id}-01")
    first, second, root = (tracer.begin(who, works=True) for who in (caller, caller, None))
    assert first is not None
    assert second is not None
    assert root is not None
    assert (first.trace_id, first.parent_id) == (SPAN.trace_id, SPAN.span_id)
    assert len({SPAN.span_id, first.span_id, second.span_id, root.span_id}) == 4
    assert root.parent_id is None
    assert parse_traceparent(root.traceparent) == Traceparent(root.trace_id, root.span_id, sampled=True)


def test_probes_and_scrapes_are_traced_for_those_who_record_them_only() -> None:
    tracer = Tracer(TraceOptions("always_on"), lambda _: True, lambda *_: None)
    unsampled, recorded = list(parents(SPAN.trace_id))[1:]
    assert tracer.begin(None, works=False) is None
    assert tracer.begin(unsampled, works=False) is None
    assert tracer.begin(recorded, works=False) is not None


def test_full_batches_are_sent_at_once_and_the_rest_at_the_end(sender: Sender) -> None:
    tracer = sender.tracer(most_at_once=8, delay_seconds=WAIT_SECONDS)
    sender.may.set()
    for _ in range(2):
        tracer.take(record(), SPAN)
    assert sender.begun.wait(WAIT_SECONDS)
    tracer.take(record(), SPAN)
    assert tracer.end(WAIT_SECONDS)
    assert sender.counted == {"sent": 12}
    assert sum(map(len, sender.batches)) == 3


def test_what_waits_too_long_is_sent(sender: Sender) -> None:
    tracer = sender.tracer(delay_seconds=0.001)
    tracer.take(record(), SPAN)
    assert sender.begun.wait(WAIT_SECONDS)
    sender.may.set()
    assert tracer.end(WAIT_SECONDS)


def test_what_does_not_fit_is_dropped_whole_and_counted(sender: Sender) -> None:
    tracer = sender.tracer(most_waiting=10, most_at_once=4, delay_seconds=WAIT_SECONDS)
    tracer.take(record(), SPAN)
    assert sender.begun.wait(WAIT_SECONDS)
    for _ in range(4):
        tracer.take(record(), SPAN)
    assert sender.counted == {"dropped": 8}
    sender.may.set()
    assert tracer.end(WAIT_SECONDS)
    assert sender.counted == {"dropped": 8, "sent": 12}


@pytest.mark.parametrize("outcome", [False, ValueError("a fault")])
def test_what_did_not_arrive_is_counted_and_the_next_batch_has_its_turn(sender: Sender, outcome: bool | Exception) -> None:
    tracer = sender.tracer(most_at_once=4, delay_seconds=WAIT_SECONDS)
    sender.outcome = outcome
    sender.may.set()
    for _ in range(3):
        tracer.take(record(), SPAN)
    assert tracer.end(WAIT_SECONDS)
    assert sender.counted == {"failed": 12}


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end(sender: Sender) -> None:
    tracer = sender.tracer(delay_seconds=0.001)
    tracer.take(record(), SPAN)
    assert sender.begun.wait(WAIT_SECONDS)
    assert not tracer.end(0.01)
