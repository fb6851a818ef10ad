"""A client that is its own balancer: requests go to the replica with the fewest under way, as least connections has it."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from tests.bench.client import Answer, Sockets


class Balanced(Sockets):
    """Keep-alive connections, as many to each of some ports; the caller's numbers are not bound to any of them."""

    def __init__(self, ports: Sequence[int], connections: int) -> None:
        self._ports = ports
        self._free = [list(range(number, connections, len(ports))) for number in range(len(ports))]
        self._turn = 0
        self._callers: dict[int, int] = {}
        super().__init__(ports[0], connections)

    def send(self, connection: int, request: bytes) -> None:
        self._turn += 1
        order = [(self._turn + number) % len(self._ports) for number in range(len(self._ports))]
        chosen = max(order, key=lambda replica: len(self._free[replica]))
        ours = self._free[chosen].pop()
        self._callers[ours] = connection
        super().send(ours, request)

    def wait(self, seconds: float) -> list[Answer]:
        found = []
        for answer in super().wait(seconds):
            ours = answer.connection
            if ours in self._callers:
                self._free[ours % len(self._ports)].append(ours)
                found.append(answer._replace(connection=self._callers.pop(ours)))
        return found

    def under_way(self, port: int) -> list[int]:
        """The caller's numbers of requests that a replica has not answered."""
        replica = list(self._ports).index(port)
        return [caller for ours, caller in self._callers.items() if ours % len(self._ports) == replica]

    def _open(self, number: int) -> socket.socket:
        self._port = self._ports[number % len(self._ports)]
        return super()._open(number)
