"""The client against a socket that answers in pieces, hangs up, and goes on."""

from __future__ import annotations

import json
import socket
import threading

from tests.bench.client import CLOSED, Sockets, get, post, with_header


def serve_once(listener, *pieces):
    """Accept a connection, read a request, send ``pieces`` one by one, hang up."""

    def run():
        accepted, _ = listener.accept()
        with accepted:
            accepted.recv(65536)
            for piece in pieces:
                accepted.sendall(piece)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def wait(wire):
    while not (answers := wire.wait(1.0)):
        pass
    return answers[0]


def test_an_answer_in_pieces_is_whole_and_the_end_of_a_connection_is_an_answer_too():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        body = json.dumps({"hits": []}).encode()
        head = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        thread = serve_once(listener, head[:20], head[20:] + body[:3], body[3:])
        with Sockets(listener.getsockname()[1], 1) as wire:
            wire.send(0, post("/search", b"{}"))
            answer = wait(wire)
            assert (answer.status, answer.body) == (200, body)
            assert wait(wire).status == CLOSED
            thread.join()
            again = serve_once(listener, b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n")
            wire.send(0, get("/livez"))
            assert wait(wire).status == 429
            again.join()


def test_requests_are_well_formed():
    assert post("/search", b"{}").endswith(b"content-length: 2\r\n\r\n{}")
    assert get("/livez").startswith(b"GET /livez HTTP/1.1\r\n")
    assert with_header(get("/livez"), "request-timeout-ms", "50").endswith(b"\r\n\r\n")
    assert with_header(post("/search", b"{}"), "request-timeout-ms", "50") == post("/search", b"{}").replace(
        b"HTTP/1.1\r\n", b"HTTP/1.1\r\nrequest-timeout-ms: 50\r\n"
    )
