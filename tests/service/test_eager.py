"""A coroutine that begins at once behaves as one in a task does."""

import asyncio

import pytest

from service.eager import begin


def test_what_never_waits_ends_at_once() -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(1)

    assert begin(work()) is None
    assert done == [1]


def test_what_it_raises_at_once_is_raised() -> None:
    async def work() -> None:
        raise ValueError("now")

    with pytest.raises(ValueError, match="now"):
        begin(work())


def test_it_goes_on_with_results_and_errors_as_often_as_it_waits() -> None:
    seen: list[object] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        for number in range(3):
            future = loop.create_future()
            loop.call_soon(future.set_result, number)
            seen.append(await future)
            failing = loop.create_future()
            loop.call_soon(failing.set_exception, KeyError(number))
            try:
                await failing
            except KeyError as error:
                seen.append(error.args[0])
        await asyncio.sleep(0)

    async def main() -> None:
        rest = begin(work())
        assert rest is not None
        await rest

    asyncio.run(main())
    assert seen == [0, 0, 1, 1, 2, 2]


def test_a_cancellation_reaches_it_and_may_be_answered() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)  # it may wait once more
            seen.append("tidied up")
            raise

    async def main() -> None:
        rest = begin(work())
        assert rest is not None
        task = asyncio.get_running_loop().create_task(rest)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == ["cancelled", "tidied up"]


def test_errors_after_a_wait_are_those_of_the_task() -> None:
    async def main() -> None:
        async def work() -> None:
            await asyncio.sleep(0)
            raise ValueError("later")

        rest = begin(work())
        assert rest is not None
        with pytest.raises(ValueError, match="later"):
            await asyncio.get_running_loop().create_task(rest)

    asyncio.run(main())


def test_what_is_never_gone_on_with_is_closed() -> None:
    seen: list[str] = []

    async def main() -> None:
        async def work() -> None:
            try:
                await asyncio.sleep(0)
            finally:
                seen.append("closed")

        rest = begin(work())
        assert rest is not None
        await rest
        again = begin(work())
        assert again is not None
        again.send(None)
        again.close()

    asyncio.run(main())
    assert seen == ["closed", "closed"]
