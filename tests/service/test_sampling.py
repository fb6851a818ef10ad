"""Shares by id: the same everywhere, and as large as asked for."""

from __future__ import annotations

import itertools
import random

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from service.sampling import Share

TRACES = [f"{random.Random(number).getrandbits(128):032x}" for number in range(2000)]
SHARES = (0.0, 1e-9, 0.01, 0.3, 0.999, 1.0)


@pytest.mark.parametrize("share", SHARES)
def test_traces_are_chosen_as_opentelemetry_chooses_them(share: float) -> None:
    theirs = TraceIdRatioBased(share)
    edge = f"{round(share * (1 << 64)) % (1 << 64):032x}"
    for trace_id in (*TRACES, edge, "0" * 31 + "1", "f" * 32):
        expected = theirs.should_sample(None, int(trace_id, 16), "any").decision is Decision.RECORD_AND_SAMPLE
        assert Share(share).has_trace(trace_id) is expected, trace_id


def test_what_a_share_has_a_greater_one_has_too() -> None:
    for smaller, greater in itertools.pairwise(SHARES):
        assert all(Share(greater).has_trace(trace) for trace in TRACES if Share(smaller).has_trace(trace))
        assert all(Share(greater).has_request(trace) for trace in TRACES if Share(smaller).has_request(trace))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("form", ["{}", "req-{:06}", "{:032x}"])
def test_ids_that_are_counted_up_give_the_share_too(form: str, share: float) -> None:
    count = 10_000
    found = sum(Share(share).has_request(form.format(number)) for number in range(count))
    deviation = (count * share * (1 - share)) ** 0.5
    assert abs(found - count * share) <= 4 * deviation
