"""What a query takes in each tower, by a clock that only the towers move."""

from __future__ import annotations

import pytest
from manual_clock import ManualClock

from offline.timing import Encoder, time_towers


def test_tokenization_is_told_apart_where_it_is_a_step_of_its_own():
    clock = ManualClock()

    def tokenize(text):
        clock.advance_ms(0.5)
        return text.split()

    def encode(tokens):
        clock.advance_ms(len(tokens))

    def whole(text):
        clock.advance_ms(10.0)
        assert isinstance(text, str)

    texts = ["one", "one two", "one two three"]
    apart, together = time_towers({"graph": Encoder(encode, tokenize), "torch": Encoder(whole)}, texts, clock)
    assert (apart.p50_ms, apart.encode_p50_ms) == (pytest.approx(2.5), pytest.approx(2.0))
    assert apart.p99_ms == pytest.approx(3.5, abs=0.05)
    assert (together.p50_ms, together.encode_p50_ms, together.queries) == (pytest.approx(10.0), None, 3)


def test_a_busy_moment_does_not_count():
    clock, calls = ManualClock(), []

    def encode(text):
        calls.append(text)
        clock.advance_ms(100.0 if len(calls) == 6 else 1.0)

    (found,) = time_towers({"torch": Encoder(encode)}, ["a", "b"], clock)
    assert (found.p50_ms, found.p99_ms) == (pytest.approx(1.0), pytest.approx(1.0))
