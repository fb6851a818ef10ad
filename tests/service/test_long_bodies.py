"""Long bodies: one at a time, in order, beside the loop, and no more than may wait."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from service.errors import CallerGoneError, OverloadedError
from service.long_bodies import MOST_LONG, LongBodies


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
