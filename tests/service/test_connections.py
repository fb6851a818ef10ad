"""Connections as a real socket sees them: what they tell each request, what bounds them, when they are closed."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest
from sockets import GET, HEAD, OK, TIMEOUT_SECONDS, WAIT_SECONDS, Running, run, until
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def test_every_request_of_a_connection_says_whether_the_client_is_there() -> None:
    async def ask_twice(running: Running) -> None:
        client = await running.client()
        for _ in range(2):
            await client.send(GET)
            assert (await client.head()).startswith(OK)
            caller = await running.app.caller()
            assert not caller.gone
        client.writer.close()
        await until(lambda: caller.gone)

    run(ask_twice)


@pytest.mark.parametrize("half", [False, True])
def test_a_client_that_leaves_is_gone_while_its_request_is_worked_on(half: bool) -> None:
    async def leave(running: Running) -> None:
        running.app.answer.clear()
        leaves = await running.client(GET)
        gone = await running.app.caller()
        stays = await running.client(GET)
        there = await running.app.caller()
        leaves.writer.write_eof() if half else leaves.writer.close()
        await until(lambda: gone.gone)
        assert not there.gone
        running.app.answer.set()
        assert (await stays.head()).startswith(OK)

    run(leave)


def test_a_client_that_leaves_in_the_middle_of_pipelined_requests_is_gone_for_the_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def leave(running: Running) -> None:
        running.app.answer.clear()
        client = await running.client(GET * 3)
        caller = await running.app.caller()
        running.connections.sweep()
        client.writer.transport.abort()
        while not caller.gone:
            running.app.answer.set()  # reading was paused: the end is seen when the first answer is written
            await asyncio.sleep(0.005)
        await until(lambda: running.open == 0)

    with caplog.at_level(logging.WARNING):
        run(leave)
    assert not caplog.records


def test_a_request_begins_with_its_first_byte_and_not_with_its_turn_or_its_connection() -> None:
    async def begin(running: Running) -> None:
        client = await running.client(GET)
        await client.head()
        running.clock.advance_ms(3_000)  # between two requests, nobody asks for anything
        running.app.answer.clear()
        first = running.clock()
        await client.send(GET[:9])
        running.clock.advance_ms(1_000)
        await client.send(GET[9:] + GET)  # the second waits for the answer to the first
        second = running.clock()
        await running.app.caller()
        await running.app.caller()
        running.clock.advance_ms(1_000)
        running.app.answer.set()
        await client.head()
        await running.app.caller()
        assert running.app.began[1:] == [first, second]

    run(begin)


def test_an_offer_of_another_protocol_does_not_begin_a_request_anew() -> None:
    async def begin(running: Running) -> None:
        began = running.clock()
        client = await running.client(GET[:9])
        running.clock.advance_ms(1_000)
        await client.send(GET[9:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        await client.head()
        assert running.app.began == [began]

    run(begin)


@pytest.mark.parametrize("pieces", [(b"G",), (b"GET / HTTP/1.1\r\nHo",), (GET[:-2],)])
def test_headers_that_do_not_end_are_not_waited_for(pieces: tuple[bytes, ...]) -> None:
    async def dawdle(running: Running) -> None:
        client = await running.client(*pieces)
        running.pass_seconds(TIMEOUT_SECONDS - 0.1)
        await client.send(b"")
        assert running.closed("header_timeout") == 0
        running.pass_seconds(0.2)
        assert await client.problem() == (b"408", "header_timeout")
        assert running.closed("header_timeout") == 1

    run(dawdle)


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word() -> None:
    async def say_nothing(running: Running) -> None:
        client = await running.client()
        await until(lambda: running.open == 1)
        running.pass_seconds(TIMEOUT_SECONDS)
        assert await client.rest() == b""
        assert running.closed("header_timeout") == 1

    run(say_nothing)


def test_bytes_that_trickle_in_buy_no_time() -> None:
    async def trickle(running: Running) -> None:
        client = await running.client()
        await until(lambda: running.open == 1)
        for byte in GET[:5]:
            running.pass_seconds(TIMEOUT_SECONDS / 6)
            await client.send(bytes([byte]))
        running.pass_seconds(TIMEOUT_SECONDS / 4)
        assert await client.problem() == (b"408", "header_timeout")

    run(trickle)


def test_an_idle_connection_may_wait_but_its_next_request_may_not() -> None:
    async def idle(running: Running) -> None:
        client = await running.client(GET)
        assert (await client.head()).startswith(OK)
        running.pass_seconds(TIMEOUT_SECONDS * 3)
        await client.send(GET)
        assert (await client.head()).startswith(OK)
        await client.send(GET[:9])
        running.pass_seconds(TIMEOUT_SECONDS)
        assert await client.problem() == (b"408", "header_timeout")

    run(idle)


def test_work_and_bodies_have_deadlines_of_their_own() -> None:
    async def take_long(running: Running) -> None:
        running.app.answer.clear()
        worked_on = await running.client(GET)
        await running.app.caller()
        sending = await running.client(HEAD + b"Content-Length: 3\r\n\r\n{")
        running.pass_seconds(TIMEOUT_SECONDS * 3)
        running.app.answer.set()
        await sending.send(b"}\n")
        for client in (worked_on, sending):
            assert (await client.head()).startswith(OK)

    run(take_long)


@pytest.mark.parametrize(
    "pieces",
    [
        (GET[:-2] + b"X: y\r\n" * 200 + b"\r\n",),
        (GET[:-2] + b"X: y\r\n" * 200,),
        (GET[:-2] + b"X: " + b"y" * 70_000 + b"\r\n\r\n",),
        (GET[:-2] + b"X: ", *[b"y" * 10_000] * 8),
        (b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\n\r\n",),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + b"X: y\r\n" * 200,),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: ", *[b"y" * 10_000] * 8),
    ],
    ids=["many", "many, no end", "long", "long, no end", "long target", "many trailers", "long trailer"],
)
def test_too_many_headers_and_too_long_ones_are_refused(pieces: tuple[bytes, ...]) -> None:
    async def exceed(running: Running) -> None:
        client = await running.client()
        try:
            await client.send(*pieces)
            assert await client.problem() == (b"431", "headers_too_large")
        except ConnectionError:  # the answer came, and then a reset for what was still being sent
            pass
        assert running.closed("headers_too_large") == 1

    run(exceed)


def test_many_headers_and_long_bodies_within_the_bounds_are_not() -> None:
    async def fit(running: Running) -> None:
        head = HEAD + b"X: y\r\n" * 100 + b"Y: " + b"z" * 30_000 + b"\r\nContent-Length: 200000\r\n\r\n"
        client = await running.client(head + b"b" * 200_000 + GET)
        for _ in range(2):
            assert (await client.head()).startswith(OK)

    run(fit)


def test_where_no_more_fit_the_one_idle_for_longest_makes_room() -> None:
    async def crowd(running: Running) -> None:
        clients = []
        for _ in range(3):
            clients.append(await running.client(GET))
            assert (await clients[-1].head()).startswith(OK)
        await clients[0].send(GET)  # the first one is busy again, so the second is idle for longest
        assert (await clients[0].head()).startswith(OK)
        clients.append(await running.client(GET))
        assert (await clients[-1].head()).startswith(OK)
        assert await clients[1].rest() == b""
        for client in (clients[0], clients[2], clients[3]):
            await client.send(GET)
            assert (await client.head()).startswith(OK)
        assert (running.closed("crowded"), running.closed("refused")) == (1, 0)

    run(crowd, limit=3)


def test_one_that_sends_slowly_makes_room_where_none_is_idle() -> None:
    async def crowd(running: Running) -> None:
        slow = await running.client(GET[:7])
        new = await running.client(GET)
        assert (await new.head()).startswith(OK)
        assert await slow.rest() == b""

    run(crowd, limit=1)


def test_where_all_are_at_work_the_new_one_is_refused_at_once() -> None:
    async def crowd(running: Running) -> None:
        running.app.answer.clear()
        works = await running.client(GET)
        caller = await running.app.caller()
        refused = await running.client()
        assert await refused.problem() == (b"503", "too_many_connections")
        assert not caller.gone
        running.app.answer.set()
        assert (await works.head()).startswith(OK)
        assert (running.closed("refused"), running.closed("crowded")) == (1, 0)

    run(crowd, limit=1)


def test_what_is_not_http_is_refused_in_the_shape_of_every_error() -> None:
    async def garble(running: Running) -> None:
        client = await running.client(b"\x16\x03\x01\x02\x00 not http\r\n\r\n")
        assert await client.problem() == (b"400", "request_malformed")
        assert running.closed("malformed") == 1

    run(garble)


def test_a_broken_body_is_refused_and_its_request_given_up() -> None:
    async def garble(running: Running) -> None:
        client = await running.client(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n")
        assert await client.problem() == (b"400", "request_malformed")
        assert (await running.app.caller()).gone

    run(garble)


def test_garbage_behind_a_request_is_not_taken_for_its_answer() -> None:
    async def garble(running: Running) -> None:
        running.app.answer.clear()
        client = await running.client(GET)
        caller = await running.app.caller()
        await client.send(b"\x00garbage\r\n\r\n")
        assert await client.rest() == b""
        assert caller.gone

    run(garble)


def test_requests_may_follow_without_waiting_for_answers() -> None:
    async def follow(running: Running) -> None:
        client = await running.client(GET * 20)
        for _ in range(20):
            assert (await client.head()).startswith(OK)

    run(follow)


def test_but_not_thousands_of_them() -> None:
    async def flood(running: Running) -> None:
        running.app.answer.clear()
        client = await running.client(GET * 3000)
        assert await client.rest() in (b"", b"reset")
        assert running.closed("pipeline") == 1
        assert running.app.callers.qsize() == 1

    run(flood)


def test_an_answer_that_nobody_takes_is_not_kept_for_ever() -> None:
    async def ignore(running: Running) -> None:
        running.app.size = 30_000_000
        await running.client(GET)
        await running.app.caller()
        for _ in range(2):
            await asyncio.sleep(0.05)
            running.pass_seconds(TIMEOUT_SECONDS)
        await until(lambda: running.open == 0)
        assert running.closed("unread") == 1

    run(ignore)


def test_an_answer_that_is_taken_slowly_arrives() -> None:
    async def read_slowly(running: Running) -> None:
        running.app.size = 30_000_000
        client = await running.client(GET)
        await client.head()
        for _ in range(9):
            await asyncio.wait_for(client.take(3_000_000), WAIT_SECONDS)
            running.pass_seconds(TIMEOUT_SECONDS / 2)
        assert running.closed("unread") == 0

    run(read_slowly)


def test_a_body_that_comes_byte_by_byte_wakes_its_request_once() -> None:
    async def dribble(running: Running) -> None:
        client = await running.client(HEAD + b"Content-Length: 20\r\n\r\n", *[b"x"] * 20)
        assert (await client.head()).startswith(OK)
        assert running.app.messages == 1

    run(dribble)


def test_what_follows_an_early_answer_must_end_too() -> None:
    async def go_on(running: Running) -> None:
        running.app.reads_body = False
        client = await running.client(HEAD + b"Content-Length: 20\r\n\r\n", b"x")
        assert (await client.head()).startswith(OK)
        running.pass_seconds(TIMEOUT_SECONDS)
        assert await client.rest() == b""
        assert running.closed("header_timeout") == 1

    run(go_on)


def test_after_the_rest_of_an_early_answered_body_comes_the_next_request() -> None:
    async def go_on(running: Running) -> None:
        running.app.reads_body = False
        client = await running.client(HEAD + b"Content-Length: 3\r\n\r\n", b"x")
        assert (await client.head()).startswith(OK)
        await client.send(b"xx")
        running.pass_seconds(TIMEOUT_SECONDS)
        await client.send(GET)
        assert (await client.head()).startswith(OK)

    run(go_on)


def test_closed_connections_leave_nothing_to_the_collector() -> None:
    async def come_and_go(running: Running) -> None:
        left = []
        for _ in range(2):  # the first time makes what stays
            gc.collect()
            gc.disable()
            for number in range(20):
                client = await running.client(GET if number % 2 else b"\x00\r\n\r\n")
                await client.head()
                client.writer.close()
            await until(lambda: running.open == 0)
            running.clients.clear()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            gc.set_debug(0)
            gc.enable()
            left.append(sum(isinstance(each, HttpToolsProtocol) for each in gc.garbage))
            gc.garbage.clear()
        assert left[-1] == 0

    run(come_and_go)
