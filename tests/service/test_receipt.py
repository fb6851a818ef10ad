"""Bodies in receipt: counted together, and where there is no room the one on its way for longest makes it."""

from __future__ import annotations

from typing import Any

import pytest
from sockets import HEAD, OK, Running, run, until

from service.errors import ServiceError
from service.receipt import Receipt

MIB = 1 << 20
STALLED = HEAD + b"Content-Length: 50000\r\n\r\n" + b"x" * 20_000


class Sender:
    """A connection, and why it was refused."""

    def __init__(self) -> None:
        self.causes: list[str] = []

    def refuse(self, error: ServiceError, cause: str) -> None:
        assert error.status == 503
        self.causes.append(cause)


def test_the_body_on_its_way_for_longest_makes_room() -> None:
    receipt, senders = Receipt(10, 5), [Sender() for _ in range(3)]
    for sender, size in zip(senders, (4, 4, 2), strict=True):
        receipt.hold(sender, size)
    receipt.hold(senders[0], 5)
    assert [sender.causes for sender in senders] == [["bodies"], [], []]
    assert receipt.bytes == 6
    receipt.release(senders[0])
    receipt.release(senders[1])
    receipt.hold(senders[2], 500)  # all but five are thrown away
    assert (receipt.bytes, senders[2].causes) == (5, [])


@pytest.mark.parametrize("most", [0, 5])
def test_one_body_always_fits(most: int) -> None:
    receipt, sender = Receipt(most, 5), Sender()
    receipt.hold(sender, 5)
    assert not sender.causes


def test_memory_is_given_back_once_after_a_flood() -> None:
    receipt, sender = Receipt(64 * MIB, 64 * MIB), Sender()
    receipt.hold(sender, 15 * MIB)
    receipt.release(sender)
    assert not receipt.ebbed()
    receipt.hold(sender, 16 * MIB)
    assert not receipt.ebbed()
    receipt.release(sender)
    assert [receipt.ebbed(), receipt.ebbed()] == [True, False]


def bounded(running: Running) -> Receipt:
    running.connections.receipt = Receipt(50_000, 50_000)
    return running.connections.receipt


def test_a_stalled_body_is_refused_where_another_needs_its_room_and_that_one_is_answered() -> None:
    async def crowd(running: Running) -> None:
        receipt = bounded(running)
        stalled = [await running.client(STALLED) for _ in range(2)]
        await until(lambda: receipt.bytes == 40_000)
        quick = await running.client(STALLED)
        assert await stalled[0].problem() == (b"503", "too_many_bodies")
        assert running.closed("bodies") == 1
        await quick.send(b"x" * 30_000)
        assert (await quick.head()).startswith(OK)
        await until(lambda: receipt.bytes == 20_000)
        stalled[1].writer.close()
        await until(lambda: receipt.bytes == 0)

    run(crowd)


def test_a_body_in_one_piece_is_never_counted() -> None:
    async def ask(running: Running) -> None:
        receipt: Any = bounded(running)
        receipt.hold = None
        client = await running.client(HEAD + b"Content-Length: 3\r\n\r\nabc")
        assert (await client.head()).startswith(OK)

    run(ask)


def test_what_is_left_of_a_body_that_is_answered_takes_no_room() -> None:
    async def answer(running: Running) -> None:
        receipt = bounded(running)
        running.app.reads_body = False
        client = await running.client(STALLED)
        assert (await client.head()).startswith(OK)
        await client.send(b"x" * 10_000)
        assert receipt.bytes == 0

    run(answer)


def test_a_body_behind_another_request_takes_room_until_it_is_complete() -> None:
    async def pipeline(running: Running) -> None:
        receipt = bounded(running)
        running.app.answer.clear()
        client = await running.client(HEAD + b"Content-Length: 0\r\n\r\n" + STALLED)
        await running.app.caller()
        assert receipt.bytes == 20_000
        running.app.answer.set()
        assert (await client.head()).startswith(OK)
        await client.send(b"x" * 10_000)
        await until(lambda: receipt.bytes == 30_000)
        await client.send(b"x" * 20_000)
        assert (await client.head()).startswith(OK)
        assert receipt.bytes == 0

    run(pipeline)
