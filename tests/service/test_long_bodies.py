"""Long bodies: one at a time, in order, beside the loop, and no more than may wait."""

from __future__ import annotations

import asyncio
import json
import threading
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import CallerGoneError, InvalidRequestError, OverloadedError
from service.long_bodies import MOST_LONG, LongBodies, check_brackets, most_brackets
from snapshot.filters import MAX_BRACKETS, MAX_CONDITIONS, MAX_DEPTH, parse_filter
from snapshot.manifest import Column

JSON = st.recursive(
    st.none() | st.integers() | st.text('[]{}"\\\\ aé\n'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('[{"\\\\', max_size=4), inner, max_size=4),
    max_leaves=30,
)


def containers(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(containers, value.values()))
    return 1 + sum(map(containers, value)) if isinstance(value, list) else 0


@given(JSON, st.booleans())
def test_objects_and_lists_are_counted_and_what_stands_in_texts_is_not(value: Any, ascii_only: bool) -> None:
    raw, count = json.dumps(value, ensure_ascii=ascii_only).encode(), containers(value)
    check_brackets(raw, count)
    if count:
        with pytest.raises(InvalidRequestError, match=f"^body: {count} objects and lists; at most {count - 1}"):
            check_brackets(raw, count - 1)


def test_the_largest_filter_has_room() -> None:
    """Each of its conditions at the end of a way of its own, as deep as filters may be."""
    deepest: Any = {"kind": {"$in": ["a"]}}
    for _ in range(MAX_DEPTH - 1):
        deepest = {"$or": [deepest]}
    largest = {"$and": [deepest] * MAX_CONDITIONS}
    parse_filter(largest, [Column(name="kind", type="string", filterable=True)])
    body = {"query": "a", "fields": [], "filter": largest}
    assert 0.85 * MAX_BRACKETS < containers(body) <= most_brackets(1)
    check_brackets(json.dumps(body).encode(), most_brackets(1))


def test_they_are_parsed_one_at_a_time_in_order_while_the_loop_goes_on() -> None:
    bodies, gate, order, threads = LongBodies(), threading.Event(), list[int](), set[int]()

    def parse(number: int) -> int:
        assert gate.wait(10)
        order.append(number)
        threads.add(threading.get_ident())
        return number

    async def main() -> list[int]:
        parsing = [asyncio.create_task(bodies.parse(partial(parse, number))) for number in range(MOST_LONG)]
        await asyncio.sleep(0)  # each stands in the line
        with pytest.raises(OverloadedError, match=f"{MOST_LONG} long bodies wait") as refused:
            await bodies.parse(partial(parse, -1))
        assert refused.value.retry_after_ms is not None
        gate.set()
        return await asyncio.gather(*parsing)

    assert asyncio.run(main()) == order == list(range(MOST_LONG))
    assert threading.get_ident() not in threads


def test_one_that_nobody_waits_for_when_its_turn_comes_is_not_parsed_and_makes_room_for_the_next() -> None:
    bodies, gate, parsed = LongBodies(), threading.Event(), list[int]()

    def parse(number: int) -> None:
        assert gate.wait(10)
        parsed.append(number)

    def refuse() -> None:
        raise CallerGoneError("tokenize")

    async def main() -> list[BaseException | None]:
        first = asyncio.create_task(bodies.parse(partial(parse, 0)))
        await asyncio.sleep(0)
        gone = [asyncio.create_task(bodies.parse(partial(parse, number), refuse)) for number in range(1, MOST_LONG - 1)]
        last = asyncio.create_task(bodies.parse(partial(parse, MOST_LONG)))
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(first, *gone, last, return_exceptions=True)

    ends = asyncio.run(main())
    assert [type(end) for end in ends] == [type(None), *[CallerGoneError] * (MOST_LONG - 2), type(None)]
    assert parsed == [0, MOST_LONG]


def test_one_that_cannot_be_parsed_makes_room_for_the_next() -> None:
    bodies = LongBodies()

    def fail() -> None:
        raise ValueError("no")

    async def main() -> None:
        for _ in range(MOST_LONG + 1):
            with pytest.raises(ValueError, match="no"):
                await bodies.parse(fail)

    asyncio.run(main())
