"""Somebody who searches all the time, and notices whatever goes wrong."""

from __future__ import annotations

import http.client
import json
import threading
import time
from types import TracebackType
from typing import Any

_PAUSE_SECONDS = 0.01
_TIMEOUT_SECONDS = 10.0
_BODY = json.dumps({"query": "apple lamp", "k": 5, "fields": ["text"], "timeout_ms": 10_000}).encode()  # whatever else runs here
_MOST_KEPT = 20


class Searches:
    """A thread that searches one connection after the other answer, until the block ends.

    Attributes:
        answers: that came and were right.
        failures: what went wrong, the first few.
        snapshots: that have answered.
    """

    def __init__(self, port: int, marks: dict[str, str]) -> None:
        self.answers = 0
        self.failures: list[str] = []
        self.snapshots: set[str] = set()
        self._port = port
        self._marks = marks
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="searches", daemon=True)

    def __enter__(self) -> Searches:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join()

    def expect(self, snapshot_id: str, mark: str) -> None:
        """From now on this one may answer too, with texts that begin with ``mark``."""
        self._marks = self._marks | {snapshot_id: mark}

    def wait_for_more(self, count: int = 3) -> None:
        """Return when so many more searches have been answered or have failed."""
        wanted = self.answers + len(self.failures) + count
        while self.answers + len(self.failures) < wanted and len(self.failures) < _MOST_KEPT:
            time.sleep(_PAUSE_SECONDS)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT_SECONDS)
        while not self._ending.wait(_PAUSE_SECONDS):
            try:
                connection.request("POST", "/search", _BODY, {"Content-Type": "application/json"})
                with connection.getresponse() as response:
                    wrong = self._wrong(response.status, response.read())
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                wrong = f"no answer ({type(error).__name__})"
            if wrong is None:
                self.answers += 1
            elif len(self.failures) < _MOST_KEPT:
                self.failures.append(wrong)
        connection.close()

    def _wrong(self, status: int, body: bytes) -> str | None:
        if status != 200:
            return f"{status} {body[:200].decode(errors='replace')}"
        answer: dict[str, Any] = json.loads(body)
        named, hits = answer["snapshot"], answer["hits"]
        self.snapshots.add(named)
        if len(hits) != 5:
            return f"{len(hits)} hits"
        if named not in self._marks:
            return f"an answer by {named}"
        half = [hit for hit in hits if not hit["fields"]["text"].startswith(self._marks[named])]
        return f"{named} answered with documents of another: {half[0]}" if half else None
